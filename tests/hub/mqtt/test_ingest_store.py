"""A batch is one transaction, and nothing in it counts twice. Against a real SQLite database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, insert, select, update

from cloud_hub.ingest.store import Gap, IngestStore, Received, missing_sequences
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import open_database, reading, writing
from cloud_hub.store.migrate import upgrade
from edgeops.messages import DeviceState, Event, ReportedState, UpdateStatus, encode
from edgeops.topics import topic
from edgeops_testkit.hub_mqtt import window

NOW_MS = 1_700_000_000_000
DEVICES = ("north-1", "north-2")


@contextmanager
def database() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(HubSettings(state_dir=Path(folder) / "hub"))
        upgrade(engine)
        row = {
            "site": "north",
            "labels_json": "{}",
            "certificate_serial": "",
            "certificate_expires_at_ms": 0,
            "enrolled_at_ms": 0,
        }
        with writing(engine) as connection:
            connection.execute(insert(schema.devices), [{"name": name, **row} for name in DEVICES])
        yield engine
        engine.dispose()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with database() as opened:
        yield opened


def windows_of(device: str, *sequences: int) -> list[Received]:
    return [Received(topic(device, "windows"), encode(window(device, sequence))) for sequence in sequences]


def event_of(device: str, sequence: int) -> Received:
    message = Event(device=device, session=1, sequence=sequence, at_ms=1, kind="note", detail={})
    return Received(topic(device, "events"), encode(message))


def state_of(device: str, connection: int, online: bool) -> Received:
    message = DeviceState(device=device, session=1, connection=connection, online=online, at_ms=0)
    return Received(topic(device, "state"), encode(message))


def report_of(device: str, session: int, revision: int) -> Received:
    message = ReportedState(
        device=device,
        session=session,
        revision=revision,
        generation=revision,
        running=None,
        update=UpdateStatus(phase="idle", generation=1),
        at_ms=0,
    )
    return Received(topic(device, "reported"), encode(message))


def counters(engine: Engine) -> dict[str, int]:
    with reading(engine) as connection:
        return {row.name: row.value for row in connection.execute(select(schema.counters))}


def device(engine: Engine, name: str) -> dict[str, object]:
    with reading(engine) as connection:
        query = select(schema.devices).where(schema.devices.c.name == name)
        return dict(connection.execute(query).one()._mapping)


def stored(engine: Engine) -> list[tuple[str, int]]:
    with reading(engine) as connection:
        query = select(schema.windows.c.device, schema.windows.c.sequence)
        return sorted((row[0], row[1]) for row in connection.execute(query))


def test_a_window_that_comes_twice_is_stored_once_and_acknowledged_twice(engine: Engine) -> None:
    store = IngestStore(engine)
    first = store.store(windows_of("north-1", 1, 2, 2), NOW_MS)
    second = store.store(windows_of("north-1", 2, 3), NOW_MS)
    assert first.acks == {"north-1": [(1, 1), (1, 2), (1, 2)]}
    assert second.acks == {"north-1": [(1, 2), (1, 3)]}
    assert stored(engine) == [("north-1", 1), ("north-1", 2), ("north-1", 3)]
    assert counters(engine) == {"windows_stored": 3, "windows_duplicate": 2}
    assert device(engine, "north-1")["window_at_ms"] == NOW_MS
    assert device(engine, "north-2")["window_at_ms"] is None


def test_what_is_no_window_is_counted_once_and_does_not_hurt_its_neighbours(engine: Engine) -> None:
    forged = Received(topic("north-1", "windows"), encode(window("north-2", 1)))
    unknown = Received(topic("south-9", "windows"), encode(window("south-9", 1)))
    junk = [Received(topic("north-1", "windows"), data) for data in (b"", b"junk", b"\x00" * (2 << 20))]
    nowhere = Received("edgeops/v1/devices/north-1/else", b"")
    desired = Received(topic("north-1", "desired"), b"")
    messages = [forged, *windows_of("north-1", 1), unknown, *junk, nowhere, desired]
    outcome = IngestStore(engine).store(messages, NOW_MS)
    assert outcome.acks == {"north-1": [(1, 1)]}
    assert stored(engine) == [("north-1", 1)]
    assert counters(engine) == {
        "windows_stored": 1,
        "messages_foreign": 1,
        "messages_unknown_device": 1,
        "messages_malformed": 5,
    }


def test_a_window_that_is_refused_for_good_is_acknowledged(engine: Engine) -> None:
    absurd = Received(topic("north-1", "windows"), encode(window("north-1", 7, requests=-1)))
    outcome = IngestStore(engine).store([absurd], NOW_MS)
    assert outcome.acks == {"north-1": [(1, 7)]}
    assert stored(engine) == []
    assert counters(engine) == {"messages_malformed": 1}


def test_a_revoked_device_is_not_listened_to(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(
            update(schema.devices).where(schema.devices.c.name == "north-1").values(revoked_at_ms=1)
        )
    messages = [*windows_of("north-1", 1), state_of("north-1", 4, True), *windows_of("north-2", 1)]
    outcome = IngestStore(engine).store(messages, NOW_MS)
    assert outcome.acks == {"north-2": [(1, 1)]}
    assert not device(engine, "north-1")["online"]
    assert counters(engine) == {"messages_revoked_device": 2, "windows_stored": 1}


def test_a_report_moves_forward_only(engine: Engine) -> None:
    store = IngestStore(engine)
    store.store([report_of("north-1", 2, 5), report_of("north-1", 2, 4)], NOW_MS)
    store.store([report_of("north-1", 1, 9)], NOW_MS + 1)
    row = device(engine, "north-1")
    assert (row["reported_session"], row["reported_revision"], row["reported_at_ms"]) == (2, 5, NOW_MS)
    store.store([report_of("north-1", 3, 1)], NOW_MS + 2)
    row = device(engine, "north-1")
    assert (row["reported_session"], row["reported_revision"], row["reported_at_ms"]) == (3, 1, NOW_MS + 2)
    assert counters(engine) == {"messages_stale": 2}


def test_a_retained_state_that_was_taken_away_changes_nothing(engine: Engine) -> None:
    store = IngestStore(engine)
    store.store([state_of("north-1", 3, True)], NOW_MS)
    store.store([Received(topic("north-1", "state"), b"")], NOW_MS)
    assert device(engine, "north-1")["online"]
    assert counters(engine) == {}


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_late_birth_never_revives_a_dead_device(data: st.DataObject) -> None:
    """The law of `state_rank`, through the database, with the messages cut into batches anywhere."""
    last = data.draw(st.integers(1, 3))
    died = data.draw(st.sets(st.integers(1, last)))
    births = [(number, True) for number in range(1, last + 1)]
    order = data.draw(st.permutations(births + [(number, False) for number in died]))
    cuts = data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
    with database() as engine:
        store = IngestStore(engine)
        batch: list[Received] = []
        for message, cut in zip(order, cuts, strict=True):
            batch.append(state_of("north-1", *message))
            if cut:
                store.store(batch, NOW_MS)
                batch = []
        store.store(batch, NOW_MS)
        row = device(engine, "north-1")
    assert (row["connection"], row["online"]) == (last, last not in died)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(DEVICES), st.integers(1, 6), st.booleans()), max_size=8),
        max_size=5,
    )
)
def test_however_messages_are_repeated_and_batched_each_counts_once(
    batches: list[list[tuple[str, int, bool]]],
) -> None:
    """`True`: an event, else a window. In truth a number is one or the other; a hostile device may use it
    for both, and each kind still counts once."""
    sent = [message for batch in batches for message in batch]
    with database() as engine:
        store = IngestStore(engine)
        acked = []
        for batch in batches:
            messages = [event_of(d, n) if is_event else windows_of(d, n)[0] for d, n, is_event in batch]
            outcome = store.store(messages, NOW_MS)
            acked += [(d, n) for d, pairs in outcome.acks.items() for _, n in pairs]
        with reading(engine) as connection:
            events = connection.execute(select(func.count()).select_from(schema.events)).scalar_one()
        found, totals = stored(engine), counters(engine)
    assert found == sorted({(d, n) for d, n, is_event in sent if not is_event})
    assert events == len({(d, n) for d, n, is_event in sent if is_event})
    assert sorted(acked) == sorted((d, n) for d, n, _ in sent)
    assert sum(totals.values()) == len(sent)
    assert totals.get("windows_stored", 0) == len(found)


def test_gaps_are_seen_across_windows_and_events(engine: Engine) -> None:
    messages = [*windows_of("north-1", 2, 3, 7), event_of("north-1", 4), *windows_of("north-2", 1, 2)]
    messages.append(Received(topic("north-1", "windows"), encode(window("north-1", 3, session=9))))
    IngestStore(engine).store(messages, NOW_MS)
    with reading(engine) as connection:
        assert missing_sequences(connection, "north-1") == [Gap(1, 1, 1), Gap(1, 5, 6), Gap(9, 1, 2)]
        assert missing_sequences(connection, "north-2") == []


def test_nothing_of_a_batch_stays_when_it_fails(engine: Engine) -> None:
    with writing(engine) as connection:
        schema.counters.drop(connection)
    with pytest.raises(Exception, match="counters"):
        IngestStore(engine).store(windows_of("north-1", 1), NOW_MS)
    assert stored(engine) == []
