"""Drains telemetry rings into windows in the spool. The control process runs it.

Each window goes into the spool in one transaction with the position up to which its ring is drained, so a
control process that is killed between any two instructions neither loses a row nor counts one twice: rows
stay in their ring until the transaction has committed, and the spool's position is the one that counts.

A ring whose writer has died is drained to its end, and its file goes; so rings left from before a restart
need no other care than being found in their folder.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from device_agent.core.rows import ERROR_KINDS, ERRORS, REQUESTS, Totals
from device_agent.core.window import Block, window_of
from device_agent.telemetry.recorder import NEW_SUFFIX, RING_SUFFIX
from device_agent.telemetry.ring_reader import RingReader
from device_agent.telemetry.spool import Spool
from edgeops import clock
from edgeops.durable import fsync_directory
from edgeops.errors import ArtifactError


@dataclass
class _Ring:
    reader: RingReader
    cursor: int
    opened_ms: int


class TelemetryCollector:
    """Turns every ring in `rings_dir` into windows of about `interval_s`. Any thread may call.

    A window closes when it is `interval_s` old, when its ring is half full, when its writer has died, or on
    demand; one in which nothing was counted is not made.
    """

    def __init__(self, rings_dir: Path, spool: Spool, *, device: str, interval_s: float) -> None:
        self._rings_dir = rings_dir
        self._spool = spool
        self._device = device
        self._interval_ms = round(interval_s * 1000)
        self._rings: dict[str, _Ring] = {}
        self._lock = threading.Lock()
        rings_dir.mkdir(parents=True, exist_ok=True)
        # A process that died while it made its ring had not recorded anything yet.
        for leftover in rings_dir.glob(f"*{NEW_SUFFIX}"):
            leftover.unlink(missing_ok=True)

    def collect(self, now_ms: int, flush: bool = False) -> int:
        """Closes the windows that are due (all, if `flush`) and returns how many.

        A file that is no ring is reported as the event `ring_damaged` and removed. Raises
        `SpoolFullError` when the spool takes no more: rows then wait in their rings, where a full ring
        counts what it cannot hold.
        """
        closed = 0
        with self._lock:
            for path in sorted(self._rings_dir.glob(f"*{RING_SUFFIX}")):
                closed += self._collect(path, now_ms, flush)
        return closed

    def finish(self, ring_path: Path) -> int:
        """The ring's writer is dead: turns the rest into windows, then removes the file. Returns how many
        windows it closed; does nothing about a ring that is gone already. If the writer is alive after all,
        the rest becomes windows and the file stays until `collect` finds it dead."""
        with self._lock:
            if ring_path.exists():
                return self._collect(ring_path, clock.now_ms(), flush=True)
            self._remove(ring_path)
            return 0

    def requests(self, ring_path: Path) -> int:
        """How many requests that ring's process has answered from its own weights; 0 if the ring is gone."""
        with self._lock:
            ring = self._open(ring_path, clock.now_ms()) if ring_path.exists() else None
            if ring is None:
                return 0
            totals = _all_totals(ring.reader, ring.reader.head())
            return int(totals[REQUESTS] - totals[ERRORS : ERRORS + len(ERROR_KINDS)].sum())

    def close(self) -> None:
        """Lets go of the files; what is not in the spool stays in them."""
        with self._lock:
            for ring in self._rings.values():
                ring.reader.close()
            self._rings.clear()

    def _collect(self, path: Path, now_ms: int, flush: bool) -> int:
        ring = self._open(path, now_ms)
        if ring is None:
            return 0
        # In this order: a writer found dead publishes nothing after.
        dead = ring.reader.writer_is_dead()
        head = ring.reader.head()
        closed = 0
        if dead:
            closed = self._close_window(path.name, ring, head, now_ms, final=True)
            self._remove(path)
        elif ring.cursor == head:
            ring.opened_ms = now_ms
        elif flush or self._is_due(ring, head, now_ms):
            closed = self._close_window(path.name, ring, head, now_ms, final=False)
            ring.opened_ms = now_ms
        return closed

    def _is_due(self, ring: _Ring, head: int, now_ms: int) -> bool:
        aged = now_ms - ring.opened_ms >= self._interval_ms
        return aged or head - ring.cursor >= ring.reader.capacity // 2

    def _close_window(self, name: str, ring: _Ring, head: int, now_ms: int, *, final: bool) -> int:
        if ring.cursor > head:
            return 0  # Sealed before a restart: all of it is in the spool.
        reader = ring.reader
        after = _all_totals(reader, head) if final else reader.totals(head)
        block = Block(reader.rows(ring.cursor, head), reader.totals(ring.cursor), after)
        if block.is_empty():
            return 0
        window = window_of(
            block,
            reader.meta,
            reader.layout,
            device=self._device,
            session=0,
            sequence=0,
            start_ms=ring.opened_ms,
            end_ms=now_ms,
        )
        # One beyond the end seals the ring: what was counted without a row is in this window, too.
        cursor = head + 1 if final else head
        self._spool.append_window(
            lambda session, sequence: msgspec.structs.replace(window, session=session, sequence=sequence),
            name,
            cursor,
        )
        ring.cursor = cursor
        reader.release(head)
        return 1

    def _open(self, path: Path, now_ms: int) -> _Ring | None:
        ring = self._rings.get(path.name)
        if ring is not None:
            return ring
        try:
            reader = RingReader(path)
        except ArtifactError as error:
            self._spool.append_event("ring_damaged", {"ring": path.name, "error": error.to_dict()})
            self._remove(path)
            return None
        cursor, head = self._spool.cursor(path.name), reader.head()
        first = int(reader.rows(cursor, cursor + 1)["end_ms"][0]) if cursor < head else now_ms
        # The spool may be ahead of what the ring was told before a restart.
        reader.release(min(cursor, head))
        ring = self._rings[path.name] = _Ring(reader, cursor, first)
        return ring

    def _remove(self, path: Path) -> None:
        """The file first, for good; then its position. The other way round, a crash in between would have
        the ring found again and drained from its start."""
        ring = self._rings.pop(path.name, None)
        if ring is not None:
            ring.reader.close()
        path.unlink(missing_ok=True)
        fsync_directory(path.parent)
        self._spool.forget_ring(path.name)


def _all_totals(reader: RingReader, head: int) -> Totals:
    """Totals up to now, with what has found no room since the last row."""
    totals: Totals = np.maximum(reader.totals(head), reader.dropped_totals())
    return totals
