"""The spool's laws, under any order of appending, acknowledging and crashing."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from device_agent.telemetry.spool import Spool, SpoolFullError
from edgeops.errors import ConfigError
from edgeops.messages import BundleRef, Event, Window, decode

REF = BundleRef(name="digits", version="1.0.0", digest="0" * 64)


def window(session: int, sequence: int, requests: int = 1) -> Window:
    return Window(
        device="pump-7", session=session, sequence=sequence, start_ms=0, end_ms=1, bundle=REF, variant="v",
        requests=requests, errors={}, rejected=0, latency=b"", confidence=b"", classes={}, features={},
        fallbacks={},
    )  # fmt: skip


class SpoolMachine(RuleBasedStateMachine):
    """A ring that is drained into the spool, a hub that acknowledges, and power cuts."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clock_ms = 1_000_000
        self.sessions: list[int] = []
        self.connections: list[int] = []
        self.pending: dict[tuple[int, int], int] = {}  # what the hub has not acknowledged: its requests
        self.counts: dict[int, int] = {}  # appended entries by session
        self.rows = 0  # answered requests, in the ring
        self.spool = self.open()

    def open(self) -> Spool:
        path = Path(self.folder.name) / "spool.db"
        spool = Spool(path, "pump-7", size_bytes=1 << 30, now_ms=lambda: self.clock_ms)
        self.sessions.append(spool.session)
        self.counts[spool.session] = 0
        return spool

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            self.folder.cleanup()

    @rule(answered=st.integers(1, 5))
    def requests_are_answered(self, answered: int) -> None:
        self.rows += answered

    @rule()
    def ring_is_drained(self) -> None:
        fresh = self.rows - self.spool.cursor("a.ring")
        number = self.spool.append_window(lambda s, n: window(s, n, fresh), "a.ring", self.rows)
        self.note(number, fresh)

    @rule()
    def draining_is_cut_off(self) -> None:
        def build(_session: int, _sequence: int) -> Window:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            self.spool.append_window(build, "a.ring", self.rows)

    @rule()
    def something_happens(self) -> None:
        self.note(self.spool.append_event("update_started", {"generation": 1}), 0)

    def note(self, number: int, requests: int) -> None:
        session = self.spool.session
        self.counts[session] += 1
        assert number == self.counts[session]
        self.pending[session, number] = requests

    @rule(data=st.data())
    def hub_acknowledges(self, data: st.DataObject) -> None:
        known = [*self.pending, (1, 1), (self.spool.session, 10_000)]
        pairs = data.draw(st.lists(st.sampled_from(known)))
        gone = set(pairs) & self.pending.keys()
        assert self.spool.acknowledge(pairs) == len(gone)
        for pair in gone:
            del self.pending[pair]

    @rule(clean=st.booleans(), hours=st.integers(-5, 5))
    def agent_restarts(self, clean: bool, hours: int) -> None:
        if clean:
            self.spool.close()
        else:
            self.spool._db.conn.close()
        self.clock_ms = max(0, self.clock_ms + hours * 3_600_000)
        self.spool = self.open()

    @rule()
    def link_connects(self) -> None:
        self.connections.append(self.spool.next_connection())

    @invariant()
    def exactly_what_was_not_acknowledged_is_pending_in_order(self) -> None:
        if not hasattr(self, "spool"):
            return
        entries = self.spool.pending(10_000)
        assert [(e.session, e.sequence) for e in entries] == sorted(self.pending)
        assert self.spool.count() == len(self.pending)
        for entry in entries:
            kind = Window if entry.channel == "windows" else Event
            message = decode(entry.payload, kind)
            assert (message.session, message.sequence) == (entry.session, entry.sequence)
            if isinstance(message, Window):
                assert message.requests == self.pending[entry.session, entry.sequence]

    @invariant()
    def numbers_only_grow(self) -> None:
        if hasattr(self, "spool"):
            for numbers in (self.sessions, self.connections):
                assert numbers == sorted(set(numbers))


SpoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestSpool = SpoolMachine.TestCase


def test_no_request_is_lost_or_counted_twice_whatever_is_cut(tmp_path: Path) -> None:
    """Drains 100 rows in windows of 7, reopening after each: the windows' requests add up."""
    for _ in range(20):
        spool = Spool(tmp_path / "spool.db", "pump-7", size_bytes=1 << 30)
        cursor = spool.cursor("a.ring")
        upto = min(100, cursor + 7)
        if upto > cursor:
            fresh = upto - cursor
            spool.append_window(lambda s, n, fresh=fresh: window(s, n, fresh), "a.ring", upto)
        spool.close()
    spool = Spool(tmp_path / "spool.db", "pump-7", size_bytes=1 << 30)
    assert sum(decode(entry.payload, Window).requests for entry in spool.pending(100)) == 100


def test_pending_goes_on_behind_what_was_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", "pump-7", size_bytes=1 << 30)
    for _ in range(5):
        spool.append_event("x", {})
    assert [e.sequence for e in spool.pending(2, after=(spool.session, 2))] == [3, 4]
    assert [e.sequence for e in spool.pending(2, after=(spool.session - 1, 99))] == [1, 2]


def test_a_full_spool_takes_nothing_and_moves_no_cursor_until_the_hub_takes_some(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", "pump-7", size_bytes=1 << 17)
    with pytest.raises(SpoolFullError, match="holds 131072 bytes"):
        for cursor in range(1, 10_000):
            spool.append_window(lambda s, n: window(s, n), "a.ring", cursor)
    stored = spool.count()
    assert 0 < spool.cursor("a.ring") == stored
    with pytest.raises(SpoolFullError):
        spool.append_event("x", {})
    spool.acknowledge([(spool.session, n) for n in range(1, stored // 2)])
    assert spool.append_event("x", {}) == stored + 1


def test_a_device_that_lost_its_state_does_not_reuse_numbers(tmp_path: Path) -> None:
    first = Spool(tmp_path / "a.db", "pump-7", size_bytes=1 << 30, now_ms=lambda: 5_000_000)
    second = Spool(tmp_path / "b.db", "pump-7", size_bytes=1 << 30, now_ms=lambda: 6_000_000)
    assert second.session > first.session
    assert second.next_connection() > first.next_connection()


def test_a_forgotten_ring_starts_at_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", "pump-7", size_bytes=1 << 30)
    spool.append_window(lambda s, n: window(s, n), "a.ring", 9)
    spool.move_cursor("b.ring", 4)
    spool.forget_ring("a.ring")
    assert (spool.cursor("a.ring"), spool.cursor("b.ring")) == (0, 4)


def test_a_file_that_is_no_spool_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_bytes(b"not a database at all, and long enough to tell" * 100)
    with pytest.raises(ConfigError, match="cannot be used: file is not a database"):
        Spool(tmp_path / "spool.db", "pump-7", size_bytes=1 << 30)


def test_what_was_appended_is_on_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", "pump-7", size_bytes=1 << 30)
    spool.append_event("x", {})
    with sqlite3.connect(tmp_path / "spool.db") as other:
        assert other.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    assert spool._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
