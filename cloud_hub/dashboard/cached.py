"""One look at the database serves every open page: the load does not grow with the number of viewers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class Cached(Generic[T]):
    """The result of a blocking `load`, made again when it is older than `max_age_s`.

    Callers that come while it is being made wait for that one. What `load` raises reaches them all.
    """

    def __init__(self, load: Callable[[], T], *, max_age_s: float) -> None:
        self._load = load
        self._max_age_s = max_age_s
        self._lock = asyncio.Lock()
        self._value: tuple[float, T] | None = None

    async def get(self) -> T:
        """The newest result."""
        async with self._lock:
            if self._value is None or time.monotonic() - self._value[0] > self._max_age_s:
                value = await run_in_threadpool(self._load)
                self._value = (time.monotonic(), value)
            return self._value[1]
