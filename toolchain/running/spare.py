"""Libraries imported before a step asks for them, in processes that wait for steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from toolchain.running.worker_process import WorkerProcess


class Ahead(Protocol):
    """Who imports them and gives workers that have them. Thread-safe; `kill` waits for none of the others."""

    @property
    def imported(self) -> frozenset[str]:
        """What the next worker will have of the distributions that take long, once that is imported."""

    @property
    def usable(self) -> bool:
        """Whether it can still give workers."""

    def warm(self, tools: frozenset[str]) -> None:
        """Has them imported, unless they are. Returns at once."""

    def settle(self) -> None:
        """Waits until they are."""

    def worker(self) -> WorkerProcess | None:
        """A worker that has `imported`, or None if there is none to give."""

    def kill(self) -> None:
        """Ends its processes, but for the workers that it gave."""

    def close(self) -> None:
        """As `kill`, and waits for their end."""


class Spare:
    """One worker at a time, started when there is something to import."""

    usable = True

    def __init__(self, start: Callable[[], WorkerProcess]) -> None:
        self._start = start
        self._guard = threading.Lock()
        self._waiting: WorkerProcess | None = None

    @property
    def imported(self) -> frozenset[str]:
        waiting = self._waiting
        return frozenset() if waiting is None else waiting.imported

    def warm(self, tools: frozenset[str]) -> None:
        with self._guard:
            if self._waiting is None:
                self._waiting = self._start()
            if not tools <= self._waiting.imported and not self._waiting.warming:
                self._waiting.warm(tools)

    def settle(self) -> None:
        with self._guard:
            if self._waiting is not None:
                self._waiting.settle()

    def worker(self) -> WorkerProcess | None:
        with self._guard:
            given, self._waiting = self._waiting, None
        if given is None or given.alive:
            return given
        given.close()
        return None

    def kill(self) -> None:
        waiting = self._waiting
        if waiting is not None:
            waiting.kill()

    def close(self) -> None:
        with self._guard:
            given, self._waiting = self._waiting, None
        if given is not None:
            given.close()
