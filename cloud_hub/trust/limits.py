"""How often a caller may try. Kept in this process's memory: each role process limits on its own."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from edgeops.errors import RateLimitedError

_MAX_SOURCES = 10_000


class RateLimiter:
    """A token bucket for each source, and one for all together (https://en.wikipedia.org/wiki/Token_bucket).

    A source may make `per_minute` attempts at once, and as many in each minute after that; all sources
    together ten times as many. At most 10,000 sources are remembered, those seen last. Thread-safe.
    """

    def __init__(self, per_minute: int, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._all = (10.0 * per_minute, clock_s())

    def attempt(self, source: str) -> None:
        """Counts one attempt. Raises `RateLimitedError` when there have been too many."""
        with self._lock:
            self._take(source)

    def _take(self, source: str) -> None:
        now = self._clock_s()
        mine = self._filled(self._sources.get(source, (float(self._per_minute), now)), self._per_minute, now)
        everyone = self._filled(self._all, 10 * self._per_minute, now)
        wait_s = max((1 - mine) * 60 / self._per_minute, (1 - everyone) * 6 / self._per_minute)
        if wait_s > 0:
            retry_after_s = math.ceil(wait_s)
            raise RateLimitedError(
                "There were too many attempts.",
                remedy=f"Try again in {retry_after_s} s.",
                details={"retry_after_s": retry_after_s},
            )
        self._sources[source] = (mine - 1, now)
        self._sources.move_to_end(source)
        self._all = (everyone - 1, now)
        if len(self._sources) > _MAX_SOURCES:
            self._sources.popitem(last=False)

    @staticmethod
    def _filled(bucket: tuple[float, float], per_minute: int, now: float) -> float:
        left, at = bucket
        return min(float(per_minute), left + (now - at) * per_minute / 60)
