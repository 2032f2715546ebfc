"""Waiting for what other processes do, and ports that nobody has."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

POLL_INTERVAL_S = 0.02

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
    """A TCP port on loopback that was free a moment ago. Prefer port 0 where the server can tell its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
