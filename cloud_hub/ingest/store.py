"""Storing what devices sent: one transaction a batch, and nothing in it counts twice.

Laws:
- a window or event is stored once for its (device, session, sequence), however often it arrives;
- what is acknowledged has been committed, or was refused for good (sending it again would not help);
- every message that is not stored is counted, in the same transaction;
- a device's state and report only move forward, in whatever order messages arrive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    and_,
    bindparam,
    func,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from cloud_hub.ingest.messages import Row, event_row, reported_row, state_rank, state_row, window_row
from cloud_hub.store.database import writing
from cloud_hub.store.schema import counters, devices, events, windows
from edgeops.errors import BadRequestError
from edgeops.messages import DeviceState, Event, ReportedState, Window, decode
from edgeops.topics import DeviceTopic, parse

# The names in `counters`.
STORED = {"windows": "windows_stored", "events": "events_stored"}
DUPLICATE = {"windows": "windows_duplicate", "events": "events_duplicate"}
MALFORMED = "messages_malformed"
FOREIGN = "messages_foreign"
UNKNOWN = "messages_unknown_device"
REVOKED = "messages_revoked_device"
STALE = "messages_stale"
COUNTERS = (*STORED.values(), *DUPLICATE.values(), MALFORMED, FOREIGN, UNKNOWN, REVOKED, STALE)

# Names in one query; well below SQLite's limit of variables.
_NAMES_PER_QUERY = 500


Rank = Callable[[Row], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came from the broker."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Outcome:
    """What a batch came to: the (session, sequence) pairs to acknowledge per device, and the counts."""

    acks: dict[str, list[tuple[int, int]]]
    counts: Counter[str]


@dataclass
class _Batch:
    """A batch sorted by what is to be done."""

    acks: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    windows: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    states: dict[str, Row] = field(default_factory=dict)
    reports: dict[str, Row] = field(default_factory=dict)


class IngestStore:
    """Writes batches into the hub's database. One thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
        self._insert = {
            table.name: dialect.insert(table)
            .values({column.name: bindparam(column.name) for column in table.c if column.name != "id"})
            .on_conflict_do_nothing()
            for table in (windows, events)
        }
        add = dialect.insert(counters)
        self._count = add.on_conflict_do_update(
            index_elements=[counters.c.name], set_={"value": counters.c.value + add.excluded.value}
        )

    def store(self, messages: Sequence[Received], now_ms: int) -> Outcome:
        """Commits a batch and returns what to acknowledge. When it raises, nothing was stored."""
        parsed = [(parse(message.topic), message.payload) for message in messages]
        with writing(self._engine) as connection:
            known = _devices(connection, {place.device for place, _ in parsed if place is not None})
            batch = _Batch()
            for place, payload in parsed:
                _sort(batch, place, payload, known, now_ms)
            self._insert_new(connection, "windows", batch.windows, batch.counts)
            self._insert_new(connection, "events", batch.events, batch.counts)
            _touch(connection, {row["device"] for row in batch.windows}, now_ms)
            _move_forward(connection, batch)
            # In one order everywhere, so that two writers never wait for each other (PostgreSQL).
            rows = [{"name": name, "value": value} for name, value in sorted(batch.counts.items()) if value]
            if rows:
                connection.execute(self._count, rows)
        return Outcome(batch.acks, batch.counts)

    def _insert_new(self, connection: Connection, name: str, rows: list[Row], counts: Counter[str]) -> None:
        if not rows:
            return
        options = {"preserve_rowcount": True}
        result = connection.execute(self._insert[name], rows, execution_options=options)
        counts[STORED[name]] += result.rowcount
        counts[DUPLICATE[name]] += len(rows) - result.rowcount


def _sort(
    batch: _Batch, place: DeviceTopic | None, payload: bytes, known: dict[str, bool], now_ms: int
) -> None:
    if place is None or place.channel in ("desired", "acks"):
        batch.counts[MALFORMED] += 1
    elif place.device not in known:
        batch.counts[UNKNOWN] += 1
    elif known[place.device]:
        batch.counts[REVOKED] += 1
    elif place.channel == "state" and not payload:
        return  # the retained state was taken away (see `cloud_hub.broker.cutoff`)
    else:
        try:
            _sort_channel(batch, place, payload, now_ms)
        except BadRequestError:
            batch.counts[MALFORMED] += 1


def _sort_channel(batch: _Batch, place: DeviceTopic, payload: bytes, now_ms: int) -> None:
    device = place.device
    if place.channel == "windows":
        window = decode(payload, Window)
        if _is_own(batch, window.device, device):
            batch.acks.setdefault(device, []).append((window.session, window.sequence))
            batch.windows.append(window_row(window, payload, now_ms))
    elif place.channel == "events":
        event = decode(payload, Event)
        if _is_own(batch, event.device, device):
            batch.acks.setdefault(device, []).append((event.session, event.sequence))
            batch.events.append(event_row(event, now_ms))
    elif place.channel == "state":
        state = decode(payload, DeviceState)
        if _is_own(batch, state.device, device):
            _keep_newer(batch, batch.states, device, state_row(state, now_ms), _state_rank)
    else:
        reported = decode(payload, ReportedState)
        if _is_own(batch, reported.device, device):
            _keep_newer(batch, batch.reports, device, reported_row(reported, now_ms), _reported_rank)


def _is_own(batch: _Batch, named: str, device: str) -> bool:
    # The broker lets a device write its own topics only; what is inside must be its own as well.
    if named == device:
        return True
    batch.counts[FOREIGN] += 1
    return False


def _keep_newer(batch: _Batch, kept: dict[str, Row], device: str, row: Row, rank: Rank) -> None:
    old = kept.get(device)
    if old is not None:
        batch.counts[STALE] += 1
    if old is None or rank(row) > rank(old):
        kept[device] = row


def _state_rank(row: Row) -> tuple[int, bool]:
    return state_rank(row["connection"], row["online"])


def _reported_rank(row: Row) -> tuple[int, int]:
    return row["reported_session"], row["reported_revision"]


def _devices(connection: Connection, names: set[str]) -> dict[str, bool]:
    """Those of `names` that are enrolled, and whether each is revoked."""
    ordered = sorted(names)
    known: dict[str, bool] = {}
    for start in range(0, len(ordered), _NAMES_PER_QUERY):
        chunk = ordered[start : start + _NAMES_PER_QUERY]
        query = select(devices.c.name, devices.c.revoked_at_ms).where(devices.c.name.in_(chunk))
        known.update((row[0], row[1] is not None) for row in connection.execute(query))
    return known


def _touch(connection: Connection, names: set[str], now_ms: int) -> None:
    if names:
        statement = update(devices).where(devices.c.name == bindparam("device")).values(window_at_ms=now_ms)
        connection.execute(statement, [{"device": name} for name in sorted(names)])


def _move_forward(connection: Connection, batch: _Batch) -> None:
    """Applies states and reports that are newer than what the database has; counts those that are not."""
    for device, row in sorted(batch.states.items()):
        # `state_rank` in SQL.
        newer = devices.c.connection < row["connection"]
        if not row["online"]:
            newer = or_(newer, and_(devices.c.connection == row["connection"], devices.c.online))
        _apply(connection, batch, device, row, newer)
    for device, row in sorted(batch.reports.items()):
        session, revision = devices.c.reported_session, devices.c.reported_revision
        newer = or_(
            session < row["reported_session"],
            and_(session == row["reported_session"], revision < row["reported_revision"]),
        )
        _apply(connection, batch, device, row, newer)


def _apply(connection: Connection, batch: _Batch, device: str, row: Row, newer: ColumnElement[bool]) -> None:
    result = connection.execute(update(devices).where(devices.c.name == device, newer).values(**row))
    if result.rowcount == 0:
        batch.counts[STALE] += 1


@dataclass(frozen=True)
class Gap:
    """Sequences `first` to `last` (inclusive) of one session that have not arrived, while later ones have."""

    session: int
    first: int
    last: int


def missing_sequences(connection: Connection, device: str) -> list[Gap]:
    """What a device numbered and the hub has not got (yet), by session and sequence.

    What comes after the last arrival cannot be seen here. Windows and events share their numbers.
    """
    numbers = union_all(
        *(select(t.c.session, t.c.sequence).where(t.c.device == device) for t in (windows, events))
    ).subquery()
    before = func.lag(numbers.c.sequence, 1, 0).over(
        partition_by=numbers.c.session, order_by=numbers.c.sequence
    )
    pairs = select(numbers.c.session, numbers.c.sequence, before.label("before")).subquery()
    query = select(pairs).where(pairs.c.sequence > pairs.c.before + 1)
    rows = connection.execute(query.order_by(pairs.c.session, pairs.c.sequence))
    return [Gap(row.session, row.before + 1, row.sequence - 1) for row in rows]
