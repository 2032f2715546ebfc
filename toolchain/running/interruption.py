"""What ends a build from outside: Ctrl-C, and SIGTERM as service managers and CI systems send it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Within, SIGTERM unwinds the stack as Ctrl-C does, so that workers are ended and locks given back, and
    the process exits with 128 + 15 (as shells tell it). Python already does so for SIGINT, with 130 here.
    Only the main thread can set this; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
