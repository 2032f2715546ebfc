"""The disk spool: telemetry waits here until the hub says that it has committed it.

A broker's PUBACK is not durability, so an entry leaves the spool only upon the hub's own `acks`.
Laws (each a property test):

- sequences count windows and events together within a session from 1 without a gap;
- what was appended is pending until it is acknowledged, also across a crash, and is never pending again
  afterwards;
- a window and the cursor of the ring it was drained from are committed together, so a killed agent
  neither loses a request nor counts one twice.

SQLite in WAL mode, `synchronous=FULL`, one connection behind one lock: any thread may call.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlite_utils import Database

from edgeops import clock
from edgeops.errors import ConfigError
from edgeops.messages import Event, Window, encode

SpoolChannel = Literal["windows", "events"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    session INTEGER NOT NULL, sequence INTEGER NOT NULL, channel TEXT NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (session, sequence)
) STRICT;
CREATE TABLE IF NOT EXISTS cursors (ring TEXT PRIMARY KEY, cursor INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


class SpoolFullError(ConfigError):
    """The spool holds `spool_size_bytes` already. Nothing was appended and no cursor moved: keep the
    window open and try again later, so that telemetry gets coarser but none is lost."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message that the hub has not acknowledged yet, encoded as it goes over the wire."""

    session: int
    sequence: int
    channel: SpoolChannel
    payload: bytes


class Spool:
    """Opens (or makes) the spool and starts a new session.

    `session` is larger than every earlier one of this device, also when the state folder was lost in
    between: it is at least the time in seconds. Raises `ConfigError` when the file cannot be used.
    """

    def __init__(
        self, path: Path, device: str, *, size_bytes: int, now_ms: Callable[[], int] = clock.now_ms
    ) -> None:
        self.device = device
        self._now_ms = now_ms
        self._size_bytes = size_bytes
        self._path = path
        self._lock = threading.Lock()
        with _sqlite_errors(path):
            # Autocommit at the driver: transactions here begin IMMEDIATE, by hand.
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db = Database(connection)
            self._db.enable_wal()
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        with self._transaction():
            self.session = self._grow("session")
            self._set("sequence", 0)

    def append_window(self, build: Callable[[int, int], Window], ring: str, cursor: int) -> int:
        """Stores the window that `build(session, sequence)` returns, and `cursor` as how far `ring` is
        drained, in one transaction. Returns the sequence. Raises `SpoolFullError`; if `build` raises,
        nothing is stored. `build` must not call the spool."""
        with self._transaction():
            self._refuse_if_full()
            sequence = self._append("windows", lambda number: encode(build(self.session, number)))
            self._set_cursor(ring, cursor)
        return sequence

    def append_event(self, kind: str, detail: Mapping[str, Any]) -> int:
        """Stores an event that happened now. Returns its sequence. Raises `SpoolFullError`."""
        at_ms = self._now_ms()
        with self._transaction():
            self._refuse_if_full()
            return self._append(
                "events",
                lambda number: encode(
                    Event(
                        device=self.device,
                        session=self.session,
                        sequence=number,
                        at_ms=at_ms,
                        kind=kind,
                        detail=dict(detail),
                    )
                ),
            )

    def cursor(self, ring: str) -> int:
        """How far `ring` has been drained into windows; 0 for one never seen."""
        with self._lock, _sqlite_errors(self._path):
            row = self._db.execute("SELECT cursor FROM cursors WHERE ring = ?", [ring]).fetchone()
        return int(row[0]) if row else 0

    def move_cursor(self, ring: str, cursor: int) -> None:
        """Notes that `ring` is drained up to `cursor` though no window came of it."""
        with self._transaction():
            self._set_cursor(ring, cursor)

    def forget_ring(self, ring: str) -> None:
        """Drops a ring's cursor, once the ring's file is gone."""
        with self._transaction():
            self._db.execute("DELETE FROM cursors WHERE ring = ?", [ring])

    def pending(self, limit: int, *, after: tuple[int, int] = (0, 0)) -> list[Entry]:
        """The oldest unacknowledged entries behind `after` (session, sequence), at most `limit`."""
        with self._lock, _sqlite_errors(self._path):
            rows = self._db.execute(
                "SELECT session, sequence, channel, payload FROM entries"
                " WHERE (session, sequence) > (?, ?) ORDER BY session, sequence LIMIT ?",
                [*after, limit],
            ).fetchall()
        return [Entry(*row) for row in rows]

    def acknowledge(self, pairs: Iterable[tuple[int, int]]) -> int:
        """Drops the entries that the hub has committed. Unknown pairs are ignored (an acknowledgement may
        come twice). Returns how many were dropped."""
        with self._transaction():
            before = self._db.conn.total_changes
            self._db.conn.executemany("DELETE FROM entries WHERE session = ? AND sequence = ?", list(pairs))
            return self._db.conn.total_changes - before

    def next_connection(self) -> int:
        """A number larger than every earlier one, stored before it is returned: one for each attempt to
        connect (see `edgeops.messages.DeviceState`)."""
        with self._transaction():
            return self._grow("connection")

    def count(self) -> int:
        """How many entries wait."""
        with self._lock, _sqlite_errors(self._path):
            return int(self._db["entries"].count)

    def used_bytes(self) -> int:
        """The space that entries take up in the file (free pages not counted)."""
        with self._lock, _sqlite_errors(self._path):
            return self._used_bytes()

    def close(self) -> None:
        """Closes the file. What was appended stays."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _sqlite_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.rollback()
                raise
            try:
                self._db.execute("COMMIT")
            except BaseException:
                self._db.rollback()
                raise

    def _append(self, channel: SpoolChannel, payload: Callable[[int], bytes]) -> int:
        sequence = self._get("sequence") + 1
        self._db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?)", [self.session, sequence, channel, payload(sequence)]
        )
        self._set("sequence", sequence)
        return sequence

    def _grow(self, name: str) -> int:
        # Not below the time: a device whose state was wiped must not reuse numbers the hub has seen.
        value = max(self._get(name) + 1, self._now_ms() // 1000)
        self._set(name, value)
        return value

    def _get(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM counters WHERE name = ?", [name]).fetchone()
        return int(row[0]) if row else 0

    def _set(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", [name, value])

    def _set_cursor(self, ring: str, cursor: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", [ring, cursor])

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _refuse_if_full(self) -> None:
        if self._used_bytes() >= self._size_bytes:
            raise SpoolFullError(
                f"The telemetry spool holds {self._size_bytes} bytes, and the hub has not taken any of it.",
                remedy="Connect the device to its hub, or raise EDGEOPS_AGENT_SPOOL_SIZE_BYTES.",
                subject=str(self._path),
            )


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours: a full disk or a damaged file is the machine's fault."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or _has_no_room(path.parent)
        why = "the disk is full" if full else str(error)
        remedy = "Free some space there." if full else "Move the file away; the agent makes a new one."
        raise ConfigError(
            f"The telemetry spool {path} cannot be used: {why}.", remedy=remedy, subject=str(path)
        ) from error


def _has_no_room(folder: Path) -> bool:
    # What SQLite maps beside its file (32 KiB) fails as "disk I/O error" on a full disk.
    try:
        return shutil.disk_usage(folder).free < 64 << 10
    except OSError:
        return False
