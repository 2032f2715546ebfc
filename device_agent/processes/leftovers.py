"""Serving processes of an earlier run of the agent. They drain by themselves; this sees to their end.

Each process is recorded in `run/<instance>.json` with its id and the time it started, since ids are reused.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec

from edgeops.durable import write_atomic

_POLL_S = 0.05


class Record(msgspec.Struct, frozen=True):
    """A process's id, and when it started, in the kernel's clock ticks since boot (proc(5), field 22)."""

    pid: int
    started_ticks: int


def record(run: Path, instance: str, pid: int) -> None:
    """Notes a process that was just started."""
    started = _started_ticks(pid)
    if started is not None:
        write_atomic(run / f"{instance}.json", msgspec.json.encode(Record(pid, started)))


def forget(run: Path, instance: str) -> None:
    """The process has ended."""
    (run / f"{instance}.json").unlink(missing_ok=True)


def living(run: Path) -> list[Record]:
    """Recorded processes that still run. Records of dead ones are deleted."""
    found = []
    for path in run.glob("*.json"):
        try:
            noted = msgspec.json.decode(path.read_bytes(), type=Record)
        except msgspec.DecodeError:
            noted = None
        if noted is not None and _started_ticks(noted.pid) == noted.started_ticks:
            found.append(noted)
        else:
            path.unlink()
    return found


def end(leftovers: list[Record], drain_timeout_s: float) -> None:
    """Blocks until all have ended; asks them first, and kills what is left after `drain_timeout_s`."""
    for one in leftovers:
        _signal(one, signal.SIGTERM)
    deadline = time.monotonic() + drain_timeout_s
    while any(map(_lives, leftovers)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for one in leftovers:
        _signal(one, signal.SIGKILL)
    while any(map(_lives, leftovers)):
        time.sleep(_POLL_S)


def _lives(one: Record) -> bool:
    return _started_ticks(one.pid) == one.started_ticks


def _signal(one: Record, number: signal.Signals) -> None:
    try:
        # A descriptor of the process first, so that the signal cannot hit a later one with the same id.
        fd = os.pidfd_open(one.pid)
    except ProcessLookupError:
        return
    try:
        if _lives(one):
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def _started_ticks(pid: int) -> int | None:
    """None if there is no such process, or it is a zombie."""
    try:
        # The command's name is in parentheses and may hold any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
