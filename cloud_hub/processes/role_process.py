"""A role's process, seen from the supervisor; and those that a killed supervisor left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from cloud_hub.settings import HubSettings
from edgeops.errors import ConfigError

STOP_TIMEOUT_S = 15.0
# Left behind, a role has lost its supervisor and is ending anyway, unless it hangs. Killing it is safe:
# everything durable is written in transactions.
_LEFT_BEHIND_TIMEOUT_S = 5.0
_POLL_S = 0.02


def run_folder(settings: HubSettings) -> Path:
    """Where process ids and the lock lie."""
    return settings.state_dir / "run"


class RoleProcess:
    """One run of one role."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, ready: asyncio.Task[bool]) -> None:
        self.role = role
        self.pid = process.pid
        self._process = process
        self._ready = ready

    @classmethod
    async def start(cls, role: str, settings: HubSettings) -> RoleProcess:
        """Starts the role; it ends when this process does."""
        read_fd, write_fd = os.pipe()
        command = [sys.executable, "-P", "-m", "cloud_hub.processes.role", role]
        command += ["--ready-fd", str(write_fd), "--parent", str(os.getpid())]
        command += ["--state-dir", str(settings.state_dir)]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment(settings),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(write_fd,),
                # Ctrl-C in a terminal is for the supervisor, which stops the roles in order.
                start_new_session=True,
            )
        finally:
            os.close(write_fd)
        (run_folder(settings) / f"{role}.pid").write_text(f"{process.pid}\n")
        return cls(role, process, asyncio.create_task(asyncio.to_thread(_read_ready, read_fd)))

    async def wait_ready(self) -> bool:
        """True when the role says that it is ready; False when it ended without saying so."""
        return await asyncio.shield(self._ready)

    async def wait(self) -> int:
        """The exit status, once it has ended; negative for a signal."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Asks it to end, and kills it if it has not after `STOP_TIMEOUT_S`."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._ready


def _read_ready(read_fd: int) -> bool:
    # Ends at the latest with the process, which holds the other end.
    with os.fdopen(read_fd, "rb") as pipe:
        return pipe.readline() == b"ready\n"


def environment(settings: HubSettings) -> dict[str, str]:
    """This process's environment with every setting in force, so that a role has just the same."""
    prefix = settings.model_config.get("env_prefix", "")
    values = {
        f"{prefix}{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    return {**os.environ, **values}


def stop_left_behind(settings: HubSettings) -> list[int]:
    """Ends role processes of a hub that was killed; returns their ids. The caller holds the hub's lock.

    A process id in a file proves nothing, since the kernel gives numbers away again: the command line must
    be that of a role over this very state folder (/proc/<pid>/cmdline).
    """
    found = [pid for file in run_folder(settings).glob("*.pid") if (pid := _role_pid(file, settings))]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in found:
            if _is_role(pid, settings):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + _LEFT_BEHIND_TIMEOUT_S
        while time.monotonic() < deadline:
            if not any(_is_role(pid, settings) for pid in found):
                return found
            time.sleep(_POLL_S)
    raise ConfigError(
        f"Processes of an earlier hub cannot be stopped: {', '.join(map(str, found))}.",
        remedy="End them with kill -9, then start the hub again.",
        subject=str(settings.state_dir),
    )


def _role_pid(file: Path, settings: HubSettings) -> int | None:
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    return pid if _is_role(pid, settings) else None


def _is_role(pid: int, settings: HubSettings) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"cloud_hub.processes.role" in command and os.fsencode(settings.state_dir) in command
