"""The telemetry ring: a memory-mapped file between one serving process and the control process.

One writer, one reader, fixed-size rows (`device_agent.core.rows`). The file is mapped shared, so what the
writer has published outlives its death by any signal; a request is recorded before its answer is written to
the socket, so at least everything answered is there. (A power cut may take what the kernel has not written
back; windows are what is durable.)

    byte 0    magic, version, header size, row size, meta size, capacity (rows)
    byte 64   head: rows published since the ring began (the writer's, on a cache line of its own)
    byte 128  tail: rows that the reader is done with (the reader's)
    byte 192  totals when a row last found no room
    byte 512  meta (JSON), padded to whole pages; then the rows, row n at n modulo capacity

Rows are never overwritten before the reader is done with them: when the ring is full, new rows are dropped
and counted, since the totals go on. One row of room is kept, so that the row before the reader's position,
with the totals up to there, is intact.

The writer holds a `flock` on the file. The kernel lets go of it when the writer dies, however that happens,
so a reader knows a ring that nobody writes any more.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from device_agent.core.rows import (
    DETAILS_FORMAT,
    ITEM,
    MAX_ITEMS,
    NOTE,
    PAYLOAD_AT,
    REQUEST,
    REQUESTS,
    TOTALS,
    TOTALS_AT,
    UNSAMPLED,
    RingMeta,
    layout_of,
)
from edgeops.errors import BadRequestError, ConfigError
from edgeops.features import feature_columns
from edgeops.serving.host import Array

RING_SUFFIX: Final = ".ring"
NEW_SUFFIX: Final = ".ring-new"
MAGIC: Final = b"edgering"
VERSION: Final = 2
HEADER: Final = struct.Struct("<8sIIIIQ")
HEAD_WORD: Final = 8
TAIL_WORD: Final = 16
DROPPED_WORD: Final = 24
META_AT: Final = 512
_NAN: Final = float("nan")
_MIN_ROWS: Final = 2 * MAX_ITEMS


class Fence:
    """A memory barrier. Releasing a lock is a store-release and taking it a load-acquire, and those two stay
    in order (ARM's RCsc; x86 keeps stores in order anyway), so what comes before is seen before."""

    def __init__(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self.release, self.acquire = lock.release, lock.acquire


class RingWriter:
    """Makes the ring and records into it. For one thread.

    Raises `ConfigError` when the disk has no room (it is allocated at once: a mapped file that cannot grow
    would kill the process later) or `size_bytes` holds too few rows for a full batch.
    """

    def __init__(self, path: Path, size_bytes: int, meta: RingMeta) -> None:
        self.path = path
        layout = layout_of(meta.inputs, meta.features)
        self._raw, self._copies = layout.raw, layout.inputs
        self._meta = meta
        encoded = msgspec.json.encode(meta)
        header_size = -(-(META_AT + len(encoded)) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._row_size = layout.size_bytes
        self._capacity = (size_bytes - header_size) // self._row_size
        if self._capacity < _MIN_ROWS:
            raise ConfigError(
                f"A telemetry ring of {size_bytes} bytes holds fewer than {_MIN_ROWS} rows of this model.",
                remedy="Raise EDGEOPS_AGENT_RING_SIZE_BYTES.",
                subject="ring_size_bytes",
            )
        self._fd = _create(path.with_suffix(NEW_SUFFIX), header_size + self._capacity * self._row_size)
        self._map = mmap.mmap(self._fd, 0)
        self._words = memoryview(self._map).cast("Q")
        self._rows_at = header_size
        self._map[META_AT : META_AT + len(encoded)] = encoded
        HEADER.pack_into(
            self._map, 0, MAGIC, VERSION, header_size, self._row_size, len(encoded), self._capacity
        )
        path.with_suffix(NEW_SUFFIX).rename(path)
        self._head = 0
        self._room_until = self._capacity - 1
        self._totals = array("Q", bytes(8 * TOTALS))
        fence = Fence()
        self._fence_release, self._fence_acquire = fence.release, fence.acquire
        self._pack = struct.Struct(DETAILS_FORMAT).pack_into

    def tally(self, total: int) -> None:
        """Adds one to a total. It is published with the next row, which the caller writes at once."""
        self._totals[total] += 1

    def request(
        self, inputs: Mapping[str, Array], latency_ms: float, predicted: int, confidence: float
    ) -> None:
        """Records and counts a request of one item. `inputs` have the leading batch dimension (1).
        `predicted` is -1 and `confidence` NaN where there is none; `latency_ms` NaN when it failed."""
        totals = self._totals
        totals[REQUESTS] += 1
        head = self._head
        if head >= self._room_until and not self._has_room(1):
            self._drop()
            return
        ring = self._map
        at = self._rows_at + head % self._capacity * self._row_size
        self._pack(ring, at, time.time_ns() // 1_000_000, latency_ms, confidence, predicted, REQUEST)
        self._payload(at, inputs)
        ring[at + TOTALS_AT : at + PAYLOAD_AT] = totals
        self._fence_release()
        self._fence_acquire()
        self._head = head = head + 1
        self._words[HEAD_WORD] = head

    def batch(
        self,
        inputs: Mapping[str, Array],
        latency_ms: float,
        predicted: Sequence[int],
        confidences: Sequence[float],
    ) -> None:
        """Records and counts one request of several items: one row each for the first `MAX_ITEMS`. A
        larger one also counts as unsampled, since part of its details is lost."""
        self._totals[REQUESTS] += 1
        items = min(len(predicted), MAX_ITEMS)
        if not self._has_room(items):
            self._drop()
            return
        if items < len(predicted):
            self._totals[UNSAMPLED] += 1
        now_ms = time.time_ns() // 1_000_000
        for item in range(items):
            at = self._rows_at + (self._head + item) % self._capacity * self._row_size
            kind = ITEM if item else REQUEST
            self._pack(self._map, at, now_ms, latency_ms, confidences[item], predicted[item], kind)
            self._payload(at, {name: value[item : item + 1] for name, value in inputs.items()})
            self._map[at + TOTALS_AT : at + PAYLOAD_AT] = self._totals
        self._publish(self._head + items)

    def note(self) -> None:
        """Publishes what was tallied, without a request: rejected ones and labels."""
        if not self._has_room(1):
            self._drop()
            return
        at = self._rows_at + self._head % self._capacity * self._row_size
        self._pack(self._map, at, time.time_ns() // 1_000_000, _NAN, _NAN, -1, NOTE)
        self._map[at + TOTALS_AT : at + PAYLOAD_AT] = self._totals
        self._publish(self._head + 1)

    def close(self) -> None:
        """Lets go of the file and of its lock. The file stays, for the reader."""
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def _payload(self, at: int, inputs: Mapping[str, Array]) -> None:
        if not self._raw:
            self._features(at, inputs)
            return
        for name, offset, size in self._copies:
            value: Any = inputs[name]
            try:
                self._map[at + offset : at + offset + size] = value
            except (ValueError, BufferError):  # not contiguous
                self._map[at + offset : at + offset + size] = value.tobytes()

    def _features(self, at: int, inputs: Mapping[str, Array]) -> None:
        # A feature that this input does not have (an element beyond a short row) is an invalid value.
        values = np.full(len(self._meta.features), np.nan, np.float32)
        for number, feature in enumerate(self._meta.features):
            try:
                values[number] = feature_columns((feature,), inputs)[feature.name][0]
            except BadRequestError:
                continue
        self._map[at + PAYLOAD_AT : at + PAYLOAD_AT + values.nbytes] = values.data

    def _has_room(self, rows: int) -> bool:
        if self._head + rows > self._room_until:
            self._room_until = self._words[TAIL_WORD] + self._capacity - 1
        return self._head + rows <= self._room_until

    def _publish(self, head: int) -> None:
        self._fence_release()
        self._fence_acquire()
        self._head = head
        self._words[HEAD_WORD] = head

    def _drop(self) -> None:
        self._words[DROPPED_WORD : DROPPED_WORD + TOTALS] = memoryview(self._totals)


def _create(path: Path, size_bytes: int) -> int:
    """A new locked file of that size; every block of it is there."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.posix_fallocate(fd, 0, size_bytes)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ConfigError(
            f"The telemetry ring {path} cannot be made ({error.strerror}).",
            remedy="Free some space there." if full else "Check the state folder.",
            subject=str(path),
        ) from error
    return fd
