"""One look at the database serves every open page: the load does not grow with the number of viewers."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class Cached(Generic[T]):
    """The result of a blocking `load`, made again when it is older than `max_age_s`.

    Callers that come while it is being made wait for that one. What `load` raises reaches them all, and is
    not kept: the next caller tries again.
    """

    def __init__(self, load: Callable[[], T], *, max_age_s: float) -> None:
        self._load = load
        self._max_age_s = max_age_s
        self._value: tuple[float, T] | None = None
        self._loading: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The newest result."""
        if self._value is not None and time.monotonic() - self._value[0] <= self._max_age_s:
            return self._value[1]
        if self._loading is None:
            self._loading = asyncio.create_task(self._make())
            self._loading.add_done_callback(_look_at)
        # Shielded: a viewer that leaves must not end the look that others wait for.
        return await asyncio.shield(self._loading)

    async def _make(self) -> T:
        try:
            value = await run_in_threadpool(self._load)
            self._value = (time.monotonic(), value)
            return value
        finally:
            self._loading = None


class CachedByName(Generic[T]):
    """A `Cached` for each name; of more than `most` names, those least recently asked for are forgotten."""

    def __init__(self, load: Callable[[str], T], *, max_age_s: float, most: int = 256) -> None:
        self._load = load
        self._max_age_s = max_age_s
        self._most = most
        self._known: OrderedDict[str, Cached[T]] = OrderedDict()

    def of(self, name: str) -> Cached[T]:
        """The one of `name`."""
        if name not in self._known:
            self._known[name] = Cached(partial(self._load, name), max_age_s=self._max_age_s)
        self._known.move_to_end(name)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return self._known[name]


def _look_at(task: asyncio.Task[T]) -> None:
    # Whoever waits gets the error. If all have left, asyncio would log that nobody looked at it.
    if not task.cancelled():
        task.exception()
