"""The shipped units on a machine that systemd booted: hub, broker and agent under all their protections, from
enrolment to answers, and what systemd does when they are killed, hang, or are stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.nspawn import EDGEOPS, ROOT, Machine, why_not
from edgeops_testkit.system import edgeops_ok
from edgeops_testkit.waiting import wait_until

MISSING = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.skipif(MISSING is not None, reason=MISSING or ""),
]
UNITS = ROOT / "deploy" / "systemd"
HUB, AGENT = "edgeops-hub.service", "edgeops-agent.service"
DEVICE = "pump-7"
HUB_URL, API_URL, ADMIN_URL = "http://127.0.0.1:8080", "http://127.0.0.1:8600", "http://127.0.0.1:8501"
WAIT_S = 60.0
# The unit's own period is too long to wait for.
WATCHDOG_S = 3

FILES = {
    # What an administrator of little patience would write: settings, variables, a change to the unit.
    "/etc/edgeops/hub.toml": 'builders_dir = "/etc/edgeops/builders"\n',
    "/etc/edgeops/hub.env": "EDGEOPS_HUB_CONTROL_INTERVAL_S=0.2\n",
    "/etc/edgeops/agent.toml": "listen_port = 8600\nconfirm_after_s = 1\n",
    "/etc/edgeops/agent.env": "EDGEOPS_AGENT_WINDOW_INTERVAL_S=0.5\nEDGEOPS_AGENT_RETRY_MAX_S=1\n",
    f"/etc/systemd/system/{AGENT}.d/impatient.conf": f"[Service]\nWatchdogSec={WATCHDOG_S}\n",
}
SERVICE_ACCOUNT = ("systemd-run", "--pipe", "--wait", "--quiet", "--property=DynamicUser=yes")
# As the agent's unit says it in its first lines.
ENROLL = (
    *SERVICE_ACCOUNT, "--property=StateDirectory=edgeops-agent", "--setenv=HOME=/var/lib/edgeops-agent",
    "--setenv=EDGEOPS_AGENT_STATE_DIR=/var/lib/edgeops-agent",
    EDGEOPS, "agent", "enroll", "--name", DEVICE, "--trust", "/etc/edgeops/builders/builder.pub",
    "--token", "-",
)  # fmt: skip
IMAGE = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]}


@dataclass
class Site:
    """A booted machine with a hub and the agent of one device, and the bundle that it is to run."""

    machine: Machine
    digest: str
    token: str = field(repr=False)

    def status(self) -> dict[str, Any]:
        """The agent's own status; empty while it does not answer."""
        answer = self.machine.http(f"{ADMIN_URL}/status")
        return dict(answer.json) if answer.status == 200 else {}

    def answers(self) -> bool:
        """Whether the device's local API answers a request from the bundle."""
        answer = self.machine.http(f"{API_URL}/v2/models/digits/infer", IMAGE)
        return answer.status == 200 and answer.json["parameters"]["digest"] == self.digest

    def device(self) -> dict[str, Any]:
        """The device as the hub knows it; empty while the hub does not answer."""
        answer = self.machine.http(f"{HUB_URL}/api/v1/devices/{DEVICE}", token=self.token)
        return dict(answer.json) if answer.status == 200 else {}

    def runs(self) -> bool:
        """Whether the hub was told that the device runs the bundle and is connected."""
        device = self.device()
        return bool(device and device["online"] and (device["running"] or {}).get("digest") == self.digest)

    def wait_whole(self) -> None:
        """Returns when the device answers and the hub knows."""
        wait_until(self.answers, WAIT_S, lambda: f"answers; {self.machine.journal(AGENT)[-3000:]}")
        wait_until(self.runs, WAIT_S, lambda: f"{self.device()}; {self.machine.journal(HUB)[-3000:]}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Installed, enrolled and running as the units' first lines say."""
    folder = tmp_path_factory.mktemp("machine")
    seen = {f"/etc/systemd/system/{unit}": UNITS / unit for unit in (HUB, AGENT)}
    for number, (inside, text) in enumerate(FILES.items()):
        seen[inside] = folder / f"file-{number}"
        seen[inside].write_text(text)
    edgeops_ok("keys", "new", "builder", "--out", str(folder), home=folder)
    seen["/etc/edgeops/builders/builder.pub"] = folder / "builder.pub"
    seen["/srv/bundle"] = make_bundle(folder, key=folder / "builder.key")
    machine = Machine(folder, seen)
    try:
        yield start(machine)
    finally:
        machine.stop()


def start(machine: Machine) -> Site:
    """Starts the hub, enrols the device, starts its agent and has it run the bundle."""
    begin(machine, HUB)
    token = machine.run_ok("cat", "/var/lib/edgeops-hub/admin.token").strip()
    published = json.loads(machine.run_ok(EDGEOPS, "publish", "/srv/bundle", "--json"))
    enrolment = json.loads(machine.run_ok(EDGEOPS, "hub", "token", "--json"))["token"]
    machine.run_ok(*ENROLL, stdin=enrolment)
    begin(machine, AGENT)
    site = Site(machine, published["digest"], token)
    told = machine.http(f"{HUB_URL}/api/v1/devices/{DEVICE}/desired", {"digest": site.digest}, token)
    assert told.status == 200, told.text
    site.wait_whole()
    return site


def begin(machine: Machine, unit: str) -> None:
    """Starts a unit; returns when it says that it is ready (Type=notify)."""
    done = machine.run("systemctl", "start", unit)
    assert done.returncode == 0, f"{done.stderr}\n{machine.journal(unit)[-3000:]}"


def test_the_agent_and_its_engine_run_under_every_protection(site: Site) -> None:
    machine, serving = site.machine, site.status()["serving"]["pid"]
    # The agent has no process ids of its own: they are the machine's.
    assert {machine.main_pid(AGENT), serving} <= set(machine.processes(AGENT))
    for pid in (machine.main_pid(AGENT), serving):
        assert_protected(machine, pid, "edgeops-agent")


def test_the_hub_its_roles_and_its_broker_run_under_every_protection(site: Site) -> None:
    machine = site.machine
    pids = machine.processes(HUB)
    commands = {machine.run_ok("cat", f"/proc/{pid}/comm").strip() for pid in pids}
    assert "mosquitto" in commands and len(pids) >= 6
    for pid in pids:
        assert_protected(machine, pid, "edgeops-hub")


def assert_protected(machine: Machine, pid: int, name: str) -> None:
    """That the kernel holds this process to what the unit promises."""
    status, init = machine.proc_status(pid), machine.proc_status(1)
    assert "0" not in status["Uid"].split()
    assert status["NoNewPrivs"] == "1"
    assert {int(status[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    # The machine itself runs under filters: the unit's must have come on top.
    assert status["Seccomp"] == "2"
    assert int(status["Seccomp_filters"]) > int(init["Seccomp_filters"])
    mounts = {
        fields[4]: fields[5].split(",")
        for fields in map(str.split, machine.run_ok("cat", f"/proc/{pid}/mountinfo").splitlines())
    }
    assert "ro" in mounts["/"] and "ro" in mounts["/opt/edgeops"]
    assert "rw" in mounts[f"/var/lib/private/{name}"]
    assert machine.run_ok("ls", "-A", f"/proc/{pid}/root/root", f"/proc/{pid}/root/home").split() == [
        f"/proc/{pid}/root/home:",
        f"/proc/{pid}/root/root:",
    ]
    owner, mode = machine.run_ok("stat", "--format=%u %a", f"/var/lib/private/{name}").split()
    assert (owner, mode) == (status["Uid"].split()[0], "700")


def test_an_account_without_a_home_is_told_what_to_do(site: Site) -> None:
    done = site.machine.run(*SERVICE_ACCOUNT, EDGEOPS, "agent", "run")
    assert done.returncode == 6
    assert "EDGEOPS_HOME" in done.stderr and "Traceback" not in done.stderr


def test_a_killed_agent_is_started_again_and_serves_the_same_bundle(site: Site) -> None:
    machine, before = site.machine, site.machine.restarts(AGENT)
    machine.run_ok("kill", "-KILL", str(machine.main_pid(AGENT)))
    wait_until(lambda: machine.restarts(AGENT) > before, WAIT_S, "systemd to start the agent again")
    site.wait_whole()
    assert machine.show(AGENT, "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


def test_an_agent_that_hangs_is_replaced_by_the_watchdog(site: Site) -> None:
    machine, before, hung = site.machine, site.machine.restarts(AGENT), site.machine.main_pid(AGENT)
    machine.run_ok("kill", "-STOP", str(hung))
    wait_until(lambda: machine.restarts(AGENT) > before, WAIT_S, "the watchdog")
    assert "Watchdog timeout" in machine.journal(AGENT)
    site.wait_whole()
    assert machine.main_pid(AGENT) not in (0, hung)


def test_an_agent_that_is_well_is_left_alone(site: Site) -> None:
    machine, pid, answered = site.machine, site.machine.main_pid(AGENT), 0
    since = "ActiveEnterTimestampMonotonic"
    begun_s = int(machine.show(AGENT, since)[since]) / 1e6
    while float(machine.run_ok("cat", "/proc/uptime").split()[0]) < begun_s + 2 * WATCHDOG_S:
        assert site.answers()
        answered += 1
    assert answered > 0 and machine.main_pid(AGENT) == pid


def test_a_killed_hub_is_started_again_with_its_broker_and_the_device_comes_back(site: Site) -> None:
    machine, before = site.machine, site.machine.restarts(HUB)
    machine.run_ok("kill", "-KILL", str(machine.main_pid(HUB)))
    # The device does not need it.
    assert site.answers()
    wait_until(lambda: machine.restarts(HUB) > before, WAIT_S, "systemd to start the hub again")
    site.wait_whole()


def test_without_a_hub_the_agent_starts_becomes_ready_and_serves(site: Site) -> None:
    machine, before = site.machine, site.machine.processes(HUB)
    machine.run_ok("systemctl", "stop", HUB)
    ended = machine.show(HUB, "Result", "ExecMainStatus", "ActiveState")
    assert ended == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
    assert not any(map(machine.lives, before))
    machine.run_ok("systemctl", "restart", AGENT)
    wait_until(site.answers, WAIT_S, "answers without a hub")
    assert site.status()["link"]["connected"] is False
    begin(machine, HUB)
    site.wait_whole()


def test_a_stopped_agent_says_goodbye_and_leaves_nothing_behind(site: Site) -> None:
    machine, before = site.machine, site.machine.processes(AGENT)
    machine.run_ok("systemctl", "stop", AGENT)
    ended = machine.show(AGENT, "Result", "ExecMainStatus", "ActiveState")
    assert ended == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
    assert len(before) == 2 and not any(map(machine.lives, before))
    wait_until(lambda: not site.device()["online"], WAIT_S, "the hub to hear goodbye")
    begin(machine, AGENT)
    site.wait_whole()
