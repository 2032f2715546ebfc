"""One serving process, seen from the control process (`device_agent.processes.serving_protocol`)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from device_agent.processes.serving_protocol import (
    Drain,
    Failed,
    Message,
    Ready,
    Serve,
    Serving,
    Start,
    decode_line,
    encode_line,
)
from edgeops import clock
from edgeops.errors import ArtifactError, EdgeopsError, GateError, InferenceError

COMMAND = (sys.executable, "-P", "-m", "device_agent.serving")
_PERMANENT = (ArtifactError.kind, GateError.kind)
# How much longer than its own deadline a draining process may take before it is killed.
KILL_AFTER_S = 3.0

_MessageT = TypeVar("_MessageT", Ready, Serving)


class ServingFailure(Exception):  # noqa: N818 (a message between two classes here, not an error of ours)
    """A process did not do what it was told; `error` as `EdgeopsError.to_dict()` has it.

    `permanent`: the bundle is at fault. `died`: the process ended by itself."""

    def __init__(self, error: dict[str, Any], *, permanent: bool = False, died: bool = False) -> None:
        super().__init__(error["message"])
        self.error = error
        self.permanent = permanent
        self.died = died


class Child:
    """A serving process. Methods may be called from one event loop only."""

    def __init__(self, start: Start, command: Sequence[str]) -> None:
        self.start_message = start
        self.ring_path = Path(start.ring_path)
        self.ready: Ready | None = None
        self.ready_at_ms = 0
        self.serving = False
        self.draining = False
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 before it was started."""
        return self._process.pid if self._process else 0

    async def spawn(self) -> None:
        """Starts the process and tells it what to load. Raises `OSError` if there can be no process."""
        ours, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), self.start_message.listen_fd)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    "--channel",
                    str(theirs.fileno()),
                    pass_fds=fds,
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                )
            except BaseException:
                ours.close()
                raise
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        await self._send(self.start_message)

    async def until_ready(self, timeout_s: float) -> Ready:
        """Returns when it has loaded and passed its self-test. Raises `ServingFailure`."""
        ready = await self._expect(Ready, timeout_s, "loading its bundle")
        self.ready, self.ready_at_ms = ready, clock.now_ms()
        return ready

    async def serve(self, timeout_s: float) -> None:
        """Lets it accept; returns when it does. Raises `ServingFailure`."""
        await self._send(Serve())
        await self._expect(Serving, timeout_s, "starting to accept")
        self.serving = True

    async def drain(self) -> None:
        """Lets it finish what is open and exit; kills it if it takes too long, or was still loading."""
        self.draining = True
        if self.ready is None:
            self.kill()
        else:
            await self._send(Drain())
        try:
            async with asyncio.timeout(self.start_message.drain_timeout_s + KILL_AFTER_S):
                await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def wait(self) -> int:
        """Returns its exit status (negative: the signal) when it has ended."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        if self._writer is not None:
            self._writer.close()
        return code

    def ended(self, code: int, doing: str) -> dict[str, Any]:
        """What to report of a process that ended by itself."""
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"
        return InferenceError(
            f"The serving process {how} while {doing}.",
            remedy="See the agent's log; one that needs more memory than is allowed dies like this, too.",
            subject=self.start_message.bundle.digest,
            details={"status": code},
        ).to_dict()

    async def _send(self, message: Message) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        try:
            self._writer.write(encode_line(message))
            await self._writer.drain()
        except ConnectionError:
            return  # it is gone, and whoever waits for its exit or its answer learns so

    async def _expect(self, kind: type[_MessageT], timeout_s: float, doing: str) -> _MessageT:
        if self._reader is None:
            raise RuntimeError("the process was not started")
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._reader.readline()
            message = decode_line(line) if line else None
        except TimeoutError:
            slow = InferenceError(f"The serving process took longer than {timeout_s:g} s for {doing}.")
            raise ServingFailure(slow.to_dict()) from None
        except ConnectionError:
            message = None
        except (ValueError, msgspec.DecodeError) as cause:
            raise ServingFailure(
                EdgeopsError(f"The channel does not speak the protocol: {cause}.").to_dict()
            ) from None
        if message is None:
            self.kill()
            raise ServingFailure(self.ended(await self.wait(), doing), died=True)
        if isinstance(message, Failed):
            raise ServingFailure(message.error, permanent=message.error.get("kind") in _PERMANENT)
        if not isinstance(message, kind):
            name = type(message).__name__
            raise ServingFailure(EdgeopsError(f"{name} came over the channel while {doing}.").to_dict())
        return message


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
