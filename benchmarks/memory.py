"""The memory of a command and all that it starts."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """Samples a process and its descendants until the end of a `with` block: `peak_bytes` is the largest sum
    of their proportional set sizes, which count a page that several share once (proc(5), smaps_rollup)."""

    def __init__(self, pid: int, *, every_s: float) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(self._every_s):
            self.peak_bytes = max(self.peak_bytes, sum(map(_set_size_bytes, _family(self._pid))))


def _family(root: int) -> list[int]:
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _set_size_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0  # it ended meanwhile
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
