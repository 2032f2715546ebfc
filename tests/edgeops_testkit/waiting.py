"""Waiting for what other processes do, and ports that nobody has."""

import asyncio
import errno
import itertools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

POLL_INTERVAL_S = 0.02
_FIRST_PORT, _PORTS = 20_000, 12_000
# Near process ids lead far apart: the factor is the golden section of the range.
_offsets = itertools.count(os.getpid() * 7417)

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], timeout_s: float, what: str | Callable[[], str]) -> T:
    """Polls `condition` until it returns something true, and returns that.

    Fails with `AssertionError` naming `what` (made then, if it is a function) after `timeout_s`. What
    `condition` raises goes through: a broken condition is not the same as one that does not hold yet.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"waited {timeout_s:g} s in vain for: {said}")
        time.sleep(POLL_INTERVAL_S)


async def wait_until_async(
    condition: Callable[[], T | Awaitable[T | None] | None], timeout_s: float, what: str
) -> T:
    """`wait_until` inside an event loop: `condition` may be a coroutine function."""

    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for: {what}")
        await asyncio.sleep(POLL_INTERVAL_S)


def free_port() -> int:
    """A TCP port on loopback for a server that must be told one; each call in a process gives another.

    Systems hand out ports from 32768 upwards by themselves: to every connection made, and to whoever binds
    port 0. A port from there may be gone before its server starts, so that this one lies below. Processes
    begin far apart. Where the server can tell its own port, prefer 0; where none shall be there,
    `refusing_port`.
    """
    for _ in range(_PORTS):
        port = _FIRST_PORT + next(_offsets) % _PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise AssertionError("every port is taken")


@contextmanager
def refusing_port() -> Iterator[int]:
    """A TCP port on loopback that refuses connections until the block ends: bound, with no listener."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port
