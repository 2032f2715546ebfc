"""The reader's side of a telemetry ring (see `device_agent.telemetry.recorder` for the file)."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from device_agent.core.rows import TOTALS, RingMeta, Rows, Totals, layout_of
from device_agent.telemetry.recorder import (
    DROPPED_WORD,
    HEAD_WORD,
    HEADER,
    MAGIC,
    META_AT,
    TAIL_WORD,
    VERSION,
    Fence,
)
from edgeops.errors import ArtifactError

_MAX_ROW_BYTES: Final = 1 << 20


class RingReader:
    """Reads what a writer has published. One reader at a time.

    Raises `ArtifactError` (subject: the file) when the file is no ring of this version, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _damaged(path, f"cannot be opened ({error.strerror})") from error
        try:
            self._map = mmap.mmap(self._fd, 0)
            self._open()
        except (OSError, ValueError, ArtifactError, msgspec.MsgspecError) as error:
            os.close(self._fd)
            raise _damaged(path, f"is damaged ({error})") from error

    def _open(self) -> None:
        if len(self._map) < META_AT:
            raise ValueError("it is too short")
        magic, version, header_size, row_size, meta_size, self.capacity = HEADER.unpack_from(self._map)
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError("it has another format")
        if META_AT + meta_size > header_size or header_size + self.capacity * row_size != len(self._map):
            raise ValueError("its sizes contradict each other")
        self.meta = msgspec.json.decode(self._map[META_AT : META_AT + meta_size], type=RingMeta)
        self.layout = layout_of(self.meta.inputs, self.meta.features)
        if self.layout.size_bytes != row_size or self.capacity < 1:
            raise ValueError("its rows do not fit its meta")
        self._words = memoryview(self._map).cast("Q")
        self._rows = np.frombuffer(self._map, self.layout.dtype, self.capacity, header_size)
        self._fence = Fence()

    def head(self) -> int:
        """How many rows have been published since the ring began. Rows below it can be read."""
        head = self._words[HEAD_WORD]
        self._fence.release()
        self._fence.acquire()
        return head

    def rows(self, start: int, stop: int) -> Rows:
        """A copy of rows `start` to `stop` (exclusive), at most `capacity` of them, below `head()` and not
        below what was released."""
        first, last = start % self.capacity, stop % self.capacity
        if start == stop or first < last:
            return self._rows[first : first + stop - start].copy()
        return np.concatenate([self._rows[first:], self._rows[:last]])

    def totals(self, cursor: int) -> Totals:
        """The totals after the first `cursor` rows. They are there for the reader's own position, too."""
        if cursor == 0:
            return np.zeros(TOTALS, np.uint64)
        totals: Totals = self._rows["totals"][(cursor - 1) % self.capacity].copy()
        return totals

    def dropped_totals(self) -> Totals:
        """The totals when a row last found no room; zeros if none ever did. They are ahead of the last
        row's only while nothing has been recorded since."""
        return np.array(self._words[DROPPED_WORD : DROPPED_WORD + TOTALS], np.uint64)

    def release(self, cursor: int) -> None:
        """Tells the writer that rows below `cursor` are done with."""
        self._words[TAIL_WORD] = cursor

    def writer_is_dead(self) -> bool:
        """Whether the process that writes this ring has ended."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return True

    def close(self) -> None:
        """Lets go of the file."""
        self._words.release()
        del self._rows
        self._map.close()
        os.close(self._fd)


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"The telemetry ring {path} {why}.", subject=str(path))
