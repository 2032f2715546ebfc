"""The embedded broker: a real mosquitto as a child process of the hub.

mosquitto is no child that the kernel can be asked to end with its parent (it changes its user, which
clears that wish), so a hub that is killed leaves its broker behind. It is found at the next start, by the
pid file and by the folder it runs in, and stopped.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from cloud_hub.broker.files import (
    CONFIG,
    OPENSSL_CONFIG,
    PID,
    QUEUE,
    SOCKET,
    broker_folder,
    write_all,
)
from cloud_hub.broker.link import probe
from cloud_hub.settings import HubSettings
from edgeops.durable import write_atomic
from edgeops.errors import ConfigError, TransportError

logger = logging.getLogger(__name__)

# mosquitto's last word, whatever it found wrong with the file.
_QUEUE_UNREADABLE = "Error: Couldn't open database."
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "/opt/homebrew/bin")
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.01


class Broker:
    """One mosquitto over `<state_dir>/broker/`. Not for use from several threads at once."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._last_lines: deque[str] = deque(maxlen=5)
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process that `start` started is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Writes the broker's files anew and starts it; does nothing while it runs.

        A broker that a killed hub left behind is stopped first. Needs the authority and the database.
        Raises `ConfigError` when mosquitto is not installed, or its port is taken.
        """
        if self.running:
            return
        binary = find_mosquitto()
        stop_left_behind(self._settings)
        _require_free_port(self._settings.mqtt_host, self._settings.mqtt_port)
        folder = write_all(self._settings)
        (folder / SOCKET).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [str(binary), "-c", CONFIG],
            cwd=folder,
            env={"OPENSSL_CONF": OPENSSL_CONFIG, "PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C in a terminal is for the hub, which ends its broker last.
            start_new_session=True,
        )
        write_atomic(folder / PID, f"{self._process.pid}\n".encode(), mode=0o600)
        assert self._process.stderr is not None
        self._last_lines.clear()
        self._reader = threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Returns once the broker answers a real MQTT connection. A saved queue that it cannot read is put
        aside.

        Raises `ConfigError` with mosquitto's own last words if it ended instead, and `TransportError` if it
        does not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if not self.running:
                if not self._put_queue_aside():
                    raise self._ended()
                self.start()
            try:
                probe(self._settings, timeout_s=1.0)
                return
            except TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Ends the broker; it saves its queue first. Does nothing if it does not run."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                logger.warning("The broker did not end within %.0f s and is killed.", _STOP_TIMEOUT_S)
                process.kill()
                process.wait()
        if self._reader is not None:
            self._reader.join()
        (broker_folder(self._settings) / PID).unlink(missing_ok=True)
        self._process = None

    def _read_log(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace").rstrip()
                self._last_lines.append(text)
                logger.info("%s", text)

    def _put_queue_aside(self) -> bool:
        """Whether it was the saved queue that kept the broker from starting. Nothing in it is needed: devices
        send again what the hub has not acknowledged, and the hub publishes anew what it desires of them."""
        saved = broker_folder(self._settings) / QUEUE
        self._join_reader()
        if _QUEUE_UNREADABLE not in self._last_lines or not saved.exists():
            return False
        saved.replace(saved.with_name(f"{QUEUE}.damaged"))
        logger.warning("The broker's saved queue %s was damaged; it starts with an empty one.", saved)
        return True

    def _join_reader(self) -> None:
        if self._reader is not None:
            self._reader.join(timeout=1.0)

    def _ended(self) -> ConfigError:
        self._join_reader()
        status = self._process.returncode if self._process is not None else None
        words = " / ".join(self._last_lines) or "nothing"
        return ConfigError(
            f"The broker ended with status {status} at its start; it said: {words}.",
            remedy="Correct what it names, then start the hub again.",
            subject="mosquitto",
            details={"status": status},
        )


def find_mosquitto(folders: Sequence[str] = _FOLDERS) -> Path:
    """The mosquitto program: on the PATH, or else in `folders`, which a user's PATH often lacks.

    Raises `ConfigError` that says how to install it.
    """
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(folders))
    if found is None:
        raise ConfigError(
            "The hub needs the MQTT broker mosquitto, and it is not installed.",
            remedy="Install it with apt-get install mosquitto (or brew install mosquitto).",
            subject="mosquitto",
        )
    return Path(found)


def running_pid(settings: HubSettings) -> int | None:
    """The process id of the broker that runs over this hub's folder, whoever started it, or None.

    The pid file alone proves nothing, since the kernel gives numbers away again: the process must be a
    mosquitto whose working directory is the broker's folder (/proc/<pid>/cwd).
    """
    folder = broker_folder(settings)
    try:
        pid = int((folder / PID).read_text())
        program = Path(f"/proc/{pid}/comm").read_text().strip()
        inside = Path(f"/proc/{pid}/cwd").readlink()
    except (OSError, ValueError):
        return None
    return pid if program == "mosquitto" and inside == folder.resolve() else None


def stop_left_behind(settings: HubSettings) -> bool:
    """Stops a broker that a killed hub left behind; says whether there was one.

    The caller makes sure that no other hub runs over this folder.
    """
    pid = running_pid(settings)
    if pid is None:
        return False
    logger.warning("Stopping the broker (process %d) that an earlier hub left behind.", pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            if running_pid(settings) is None:
                return True
            time.sleep(_POLL_S)
    raise ConfigError(
        f"The broker of an earlier hub (process {pid}) cannot be stopped.",
        remedy=f"End it with kill -9 {pid}, then start the hub again.",
        subject="mosquitto",
    )


def _require_free_port(host: str, port: int) -> None:
    try:
        # mosquitto sets SO_REUSEADDR too, so connections that are closing do not count.
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ConfigError(
            f"The broker's port {port} on {host} {why}.",
            remedy="Stop what uses it, or set EDGEOPS_HUB_MQTT_PORT or EDGEOPS_HUB_MQTT_HOST.",
            subject=f"{host}:{port}",
        ) from error
