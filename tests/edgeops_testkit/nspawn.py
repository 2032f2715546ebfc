"""A machine that systemd boots, for tests: this machine's /usr read-only, everything else empty and in
memory, loopback for a network, and edgeops below /opt/edgeops as on a device.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parents[2]
EDGEOPS = "/opt/edgeops/bin/edgeops"
# A killed systemd-nspawn leaves its machine running. In a PID namespace of its own it takes all with it, and
# that happens when the test's process dies, however it dies.
_END_WITH_US = (
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
)  # fmt: skip
_BOOT_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
# A client that runs in the machine's network. What it is to send comes by standard input: it may be secret.
_FETCH = """
import json, sys, urllib.error, urllib.request
asked = json.load(sys.stdin)
body = None if asked["body"] is None else json.dumps(asked["body"]).encode()
request = urllib.request.Request(asked["url"], data=body, headers=asked["headers"])
try:
    with urllib.request.urlopen(request, timeout=10) as response:
        print(json.dumps({"status": response.status, "text": response.read().decode()}))
except urllib.error.HTTPError as error:
    print(json.dumps({"status": error.code, "text": error.read().decode()}))
except OSError as error:
    print(json.dumps({"status": 0, "text": str(error)}))
"""


def why_not() -> str | None:
    """What this machine lacks to boot another one inside, in a sentence; None if nothing."""
    if sys.platform != "linux":
        return "systemd boots on Linux only"
    if os.geteuid() != 0:
        return "only root may boot a machine with systemd-nspawn"
    for program, package in (("systemd-nspawn", "systemd-container"), ("dbus-daemon", "dbus")):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install {package})"
    return None


@dataclass(frozen=True)
class Answer:
    """What an HTTP server said. `status` is 0 when none answered."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def _make_groups() -> None:
    """Where the first version of cgroups is mounted, systemd-nspawn moves itself and its machine into two
    groups below its own, and the machine does not boot if nobody has made them. systemd would."""
    root = Path("/sys/fs/cgroup/systemd")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers == "name=systemd" and root.is_dir():
            for name in ("payload", "supervisor"):
                (root / own.lstrip("/") / name).mkdir(exist_ok=True)


class Machine:
    """Boots when made; `stop` ends it, and all that runs in it."""

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        """`files`: what else it sees, read-only, by the path it has there. Works in `folder`."""
        self._log = folder / "console.log"
        seen = {**_program(folder), **files}
        binds = [f"--bind-ro={outside}:{inside}" for inside, outside in seen.items()]
        self._lock = _only_one()
        _make_groups()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self._log.open("wb") as log:
            notified.bind(str(folder / "notify"))
            notified.settimeout(_BOOT_TIMEOUT_S)
            self._unshare = subprocess.Popen(
                [*_END_WITH_US, "systemd-nspawn", "--boot", "--directory=/", "--volatile=yes",
                 # What it takes where no systemd runs outside; see systemd-nspawn(1).
                 "--register=no", "--keep-unit", "--console=pipe", "--notify-ready=yes",
                 "--private-network", *binds, "--", "--unit=basic.target",
                 # Debian turns these on where /etc is empty; there is no network that they could bring up.
                 "systemd.mask=systemd-networkd.service",
                 "systemd.mask=systemd-networkd-wait-online.service"],
                env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            try:
                self._await_boot(notified)
                self._nspawn, init = _family(self._unshare.pid)
            except BaseException:
                self._end()
                raise
        self._init = str(init.pid)
        if sysconfig.get_config_var("Py_ENABLE_SHARED"):
            self.run_ok("ldconfig", "/opt/python-library")

    def _await_boot(self, notified: socket.socket) -> None:
        """Returns when the machine's init says that it is up."""
        lines: list[str] = []
        while "READY=1" not in lines:
            try:
                lines = notified.recv(4096).decode().splitlines()
            except TimeoutError:
                raise AssertionError(f"the machine did not boot: {self.console()}") from None

    def run(self, *command: str, stdin: str = "", timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as root."""
        return subprocess.run(
            ["nsenter", f"--target={self._init}", "--all", "--", *command],
            env={"PATH": "/usr/sbin:/usr/bin", "EDGEOPS_HUB_STATE_DIR": "/var/lib/edgeops-hub"},
            input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def run_ok(self, *command: str, stdin: str = "") -> str:
        """Runs a command inside that must succeed; returns what it printed."""
        done = self.run(*command, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def http(self, url: str, body: object | None = None, token: str | None = None) -> Answer:
        """One request from inside: POST when there is a body, else GET."""
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", "--net", "--", sys.executable, "-I", "-S", "-c", _FETCH],
            input=json.dumps({"url": url, "body": body, "headers": headers}),
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return Answer(**json.loads(done.stdout))

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, by name."""
        told = self.run_ok("systemctl", "show", unit, *(f"--property={name}" for name in properties))
        return {name: value for name, _, value in (line.partition("=") for line in told.splitlines())}

    def main_pid(self, unit: str) -> int:
        """The process id of a service, as it is inside; 0 while it does not run."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def restarts(self, unit: str) -> int:
        """How often systemd started it again by itself."""
        return int(self.show(unit, "NRestarts")["NRestarts"])

    def journal(self, unit: str) -> str:
        """What the unit said, and what systemd said of it."""
        return self.run("journalctl", "--unit", unit, "--output=cat", "--no-pager").stdout

    def processes(self, unit: str) -> list[int]:
        """All processes of a unit that runs, as their ids are inside."""
        group = self.show(unit, "ControlGroup")["ControlGroup"]
        assert group, f"{unit} does not run"
        # Where the kernel's older control groups are in use, systemd's own hierarchy is one of several.
        tree = "/sys/fs/cgroup"
        if self.run("test", "-e", f"{tree}/systemd{group}").returncode == 0:
            tree += "/systemd"
        return [int(line) for line in self.run_ok("cat", f"{tree}{group}/cgroup.procs").split()]

    def lives(self, pid: int) -> bool:
        """Whether a process with this id exists inside."""
        return self.run("test", "-e", f"/proc/{pid}").returncode == 0

    def proc_status(self, pid: int) -> dict[str, str]:
        """/proc/<pid>/status (proc(5)) of a process inside."""
        told = self.run_ok("cat", f"/proc/{pid}/status")
        return {name: value.strip() for name, _, value in (line.partition(":") for line in told.splitlines())}

    def console(self) -> str:
        """The end of what the machine's console showed."""
        return self._log.read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Shuts the machine down; kills it if it takes too long."""
        self._nspawn.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._unshare.wait(timeout=_STOP_TIMEOUT_S)
        self._end()

    def _end(self) -> None:
        """Kills what is left of it."""
        self._unshare.kill()
        self._unshare.wait()
        self._lock.close()


def _only_one() -> IO[str]:
    """Waits for the end of any other such machine; the next one waits until this file is closed.

    Machines that are started from one control group share the groups of their services, and so each would
    find the other's processes in its own services.
    """
    file = (Path(tempfile.gettempdir()) / "edgeops-nspawn.lock").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _family(unshare: int) -> tuple[psutil.Process, psutil.Process]:
    """The processes below `unshare`: systemd-nspawn, and the init of the machine."""
    (nspawn,) = psutil.Process(unshare).children()
    (init,) = nspawn.children()
    return nspawn, init


def _program(folder: Path) -> dict[str, Path]:
    """An installation below /opt/edgeops of this source tree with the running interpreter and its packages.

    Nothing is copied. The interpreter gets another place since its own may be somebody's home folder, which
    no hardened service can see.
    """
    made = folder / "opt-edgeops"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = made / "lib" / version / "site-packages"
    for path in (made / "bin", made / "tree", made / "packages", packages):
        path.mkdir(parents=True)
    (made / "pyvenv.cfg").write_text("home = /opt/python/bin\ninclude-system-site-packages = false\n")
    # The tree comes first, however edgeops was installed among the packages.
    (packages / "edgeops.pth").write_text("/opt/edgeops/tree\n/opt/edgeops/packages\n")
    (made / "bin" / "python").symlink_to(f"/opt/python/bin/{version}")
    script = made / "bin" / "edgeops"
    script.write_text("#!/opt/edgeops/bin/python\nfrom edgeops.cli import main\n\nmain()\n")
    script.chmod(0o755)
    for path in (made, *made.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    files = {
        "/opt/edgeops": made,
        "/opt/edgeops/tree": ROOT,
        "/opt/edgeops/packages": Path(sysconfig.get_path("purelib")),
        "/opt/python": Path(sys.base_prefix),
    }
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        library = str(sysconfig.get_config_var("INSTSONAME"))
        files[f"/opt/python-library/{library}"] = Path(str(sysconfig.get_config_var("LIBDIR"))) / library
    return files
