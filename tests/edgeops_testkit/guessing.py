"""Somebody who guesses secrets, and does not stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def guessing(attempt: Callable[[], int]) -> Iterator[None]:
    """Makes attempts until the block ends: however long the one in the block takes to start, none is left for
    it."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        guesses = thread.submit(lambda: [attempt() for _ in iter(ended.is_set, True)])
        try:
            yield
        finally:
            ended.set()
        assert 429 in guesses.result()
