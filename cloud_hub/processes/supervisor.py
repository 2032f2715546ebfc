"""`edgeops hub serve`: the broker and one process per role, started in order, watched, stopped in order.

Nothing is started before everything that can be checked was checked: the lock, the disk, mosquitto, the
ports. What dies later is started again, after a pause that doubles while it goes on dying.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from cloud_hub.broker.process import Broker, find_mosquitto
from cloud_hub.broker.process import stop_left_behind as stop_broker_left_behind
from cloud_hub.processes.prepare import prepare
from cloud_hub.processes.role import ROLES
from cloud_hub.processes.role_process import RoleProcess, run_folder, stop_left_behind
from cloud_hub.settings import HubSettings
from cloud_hub.trust.enrolment import device_url, gateway_url
from cloud_hub.trust.tls import bind
from edgeops.errors import ConfigError, EdgeopsError

logger = logging.getLogger(__name__)

# A telemetry window is lost to nobody if ingest ends last: the broker keeps what it has not taken.
_STOP_ORDER = ("api", "gateway", "control", "ingest")
_READY_TIMEOUT_S = 120.0
_BACKOFF_MIN_S = 0.25
_BACKOFF_MAX_S = 30.0
# A process that lived this long had a good start: the next pause is the shortest again.
_HEALTHY_AFTER_S = 60.0
_BROKER_POLL_S = 0.25


class Supervisor:
    """One hub on this machine. `run` does everything; cancelling it is the orderly end."""

    def __init__(self, settings: HubSettings, roles: Sequence[str] = tuple(ROLES)) -> None:
        self._settings = settings
        self._roles = roles
        self._broker = Broker(settings)
        self._running: dict[str, RoleProcess] = {}

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Runs the hub until cancelled; `on_ready` is called once, when all of it answers.

        Raises `ConfigError`, with nothing left running, when something is in the way of a start.
        """
        with _lock(self._settings):
            await _in_thread(self._check)
            try:
                await _in_thread(self._start_broker)
                async with asyncio.TaskGroup() as group:
                    started = [asyncio.Event() for _ in self._roles]
                    for role, event in zip(self._roles, started, strict=True):
                        group.create_task(self._keep_role(role, event))
                    group.create_task(self._keep_broker())
                    await self._wait_for(started)
                    _notify_systemd("READY=1")
                    on_ready()
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                _notify_systemd("STOPPING=1")
                await self._stop()

    def _check(self) -> None:
        settings = self._settings
        find_mosquitto()
        for pid in stop_left_behind(settings):
            logger.warning("Ended process %d, which an earlier hub left behind.", pid)
        stop_broker_left_behind(settings)
        prepare(settings)
        for name in ("api", "device", "gateway", "mqtt"):
            port = getattr(settings, f"{name}_port")
            bind(getattr(settings, f"{name}_host"), port, f"{name}_port").close()

    def _start_broker(self) -> None:
        self._broker.start()
        self._broker.wait_ready()

    async def _wait_for(self, started: list[asyncio.Event]) -> None:
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                for event in started:
                    await event.wait()
        except TimeoutError:
            late = [role for role, event in zip(self._roles, started, strict=True) if not event.is_set()]
            raise ConfigError(
                f"The hub's roles {', '.join(late)} were not ready within {_READY_TIMEOUT_S:.0f} s.",
                remedy="See what they logged above.",
                subject=late[0],
            ) from None

    async def _keep_role(self, role: str, started: asyncio.Event) -> None:
        pause_s = _BACKOFF_MIN_S
        while True:
            began = time.monotonic()
            process = self._running[role] = await RoleProcess.start(role, self._settings)
            if await process.wait_ready():
                started.set()
            status = await process.wait()
            if not started.is_set():
                raise ConfigError(
                    f"The hub's role {role} ended with status {status} before it was ready.",
                    remedy="See what it logged above.",
                    subject=role,
                )
            if time.monotonic() - began > _HEALTHY_AFTER_S:
                pause_s = _BACKOFF_MIN_S
            logger.error("The role %s ended with status %d; starting it again.", role, status)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_MAX_S)

    async def _keep_broker(self) -> None:
        pause_s, began = _BACKOFF_MIN_S, time.monotonic()
        while True:
            await asyncio.sleep(_BROKER_POLL_S)
            if self._broker.running:
                continue
            if time.monotonic() - began > _HEALTHY_AFTER_S:
                pause_s = _BACKOFF_MIN_S
            logger.error("The broker ended; starting it again.")
            await asyncio.sleep(pause_s)
            pause_s, began = min(2 * pause_s, _BACKOFF_MAX_S), time.monotonic()
            try:
                await _in_thread(self._start_broker)
            except EdgeopsError as error:
                logger.error("%s", error)

    async def _stop(self) -> None:
        for role in _STOP_ORDER:
            process = self._running.pop(role, None)
            if process is not None:
                await process.stop()
                (run_folder(self._settings) / f"{role}.pid").unlink(missing_ok=True)
        await _in_thread(self._broker.stop)


def addresses(settings: HubSettings) -> dict[str, object]:
    """Where everything of a running hub is, for people and scripts."""
    return {
        "api_url": f"http://{settings.api_host}:{settings.api_port}",
        "device_url": device_url(settings),
        "gateway_url": gateway_url(settings),
        "mqtt_host": settings.public_host,
        "mqtt_port": settings.mqtt_port,
        "state_dir": str(settings.state_dir),
        "token_file": str(settings.state_dir / "admin.token"),
        "pid": os.getpid(),
    }


@contextlib.contextmanager
def _lock(settings: HubSettings) -> Iterator[None]:
    """Two hubs over one state folder would both start its broker and answer for its devices."""
    folder = run_folder(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / "hub.lock").open("a+")
    except OSError as error:
        raise ConfigError(
            f"The hub's state folder {settings.state_dir} cannot be written ({error.strerror}).",
            remedy="Choose another with EDGEOPS_HUB_STATE_DIR or EDGEOPS_HOME.",
            subject=str(settings.state_dir),
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"Another hub (process {file.read().strip()}) runs over {settings.state_dir}.",
                remedy="Stop it, or give this one another folder with EDGEOPS_HUB_STATE_DIR.",
                subject=str(settings.state_dir),
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


async def _in_thread(work: Callable[[], None]) -> None:
    """Runs blocking work in a thread. When cancelled, waits for its end first: nothing that it is in the
    middle of may be stopped at the same time from another thread."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _notify_systemd(state: str) -> None:
    """Tells systemd how far the service is (sd_notify(3)); nothing where it did not start this process."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # "@" stands for the abstract namespace.
    target = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), target)
