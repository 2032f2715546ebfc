"""The collector: nothing lost and nothing counted twice, wherever the control process dies."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from device_agent.core.rows import LABELS_SEEN, REJECTED, error_total
from device_agent.telemetry.collector import TelemetryCollector
from device_agent.telemetry.recorder import RingWriter
from device_agent.telemetry.ring_reader import RingReader
from device_agent.telemetry.spool import Spool, SpoolFullError
from edgeops.messages import Event, Window, decode
from edgeops_testkit.rings import BUNDLE, inputs_of, new_ring, windows_in

INTERVAL_S = 10.0


class PowerCut(BaseException):
    """The control process dies here."""


class CrashingSpool(Spool):
    """The real spool, in a process that dies at one point: `at` names it."""

    POINTS = ("before_append", "inside_append", "after_append", "before_forget", "after_forget")
    at: str | None = None

    def _pass(self, point: str) -> None:
        if self.at == point:
            raise PowerCut

    def append_window(self, build: Callable[[int, int], Window], ring: str, cursor: int) -> int:
        self._pass("before_append")

        def dying(session: int, sequence: int) -> Window:
            window = build(session, sequence)
            self._pass("inside_append")
            return window

        number = super().append_window(dying, ring, cursor)
        self._pass("after_append")
        return number

    def forget_ring(self, ring: str) -> None:
        self._pass("before_forget")
        super().forget_ring(ring)
        self._pass("after_forget")


class CollectorMachine(RuleBasedStateMachine):
    """Serving processes that begin, record and die; a control process that collects and dies."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.writers: list[RingWriter] = []
        self.rings = 0
        self.now_ms = 1_000_000
        self.recorded = {"requests": 0, "rejected": 0, "labels": 0, "errors": 0}

    @initialize()
    def begin(self) -> None:
        self.start_control()
        self.start_writer()

    def start_control(self) -> None:
        self.spool = CrashingSpool(self.root / "spool.db", "device", size_bytes=1 << 30)
        self.collector = TelemetryCollector(
            self.root / "rings", self.spool, device="device", interval_s=INTERVAL_S
        )

    def stop_control(self) -> None:
        self.collector.close()
        self.spool.close()

    @rule()
    def start_writer(self) -> None:
        if len(self.writers) < 3:
            self.rings += 1
            self.writers.append(new_ring(self.root / "rings" / f"{self.rings}.ring"))

    @rule(which=st.integers(0, 2), times=st.integers(1, 150))
    def request(self, which: int, times: int) -> None:
        if self.writers:
            writer = self.writers[which % len(self.writers)]
            for _ in range(times):
                writer.request(inputs_of(1), 1.0, 1, 0.5)
            self.recorded["requests"] += times

    @rule(which=st.integers(0, 2))
    def others(self, which: int) -> None:
        if self.writers:
            writer = self.writers[which % len(self.writers)]
            for total in (REJECTED, LABELS_SEEN):
                writer.tally(total)
                writer.note()
            writer.tally(error_total("inference"))
            writer.batch(inputs_of(1, 3), float("nan"), [-1] * 3, [float("nan")] * 3)
            for key, more in (("requests", 1), ("rejected", 1), ("labels", 1), ("errors", 1)):
                self.recorded[key] += more

    @rule(which=st.integers(0, 2), told=st.booleans())
    def writer_dies(self, which: int, told: bool) -> None:
        if self.writers:
            writer = self.writers.pop(which % len(self.writers))
            writer.close()
            if told:
                self.collector.finish(writer.path)
                assert not writer.path.exists()

    @rule(passed_s=st.floats(0, 2 * INTERVAL_S), flush=st.booleans())
    def collect(self, passed_s: float, flush: bool) -> None:
        self.now_ms += round(passed_s * 1000)
        self.collector.collect(self.now_ms, flush)

    @rule(point=st.sampled_from(CrashingSpool.POINTS))
    def control_dies_while_it_collects(self, point: str) -> None:
        self.spool.at = point
        with contextlib.suppress(PowerCut):
            self.collector.collect(self.now_ms, flush=True)
        self.stop_control()
        self.start_control()

    @rule()
    def control_restarts(self) -> None:
        self.stop_control()
        self.start_control()

    def counted(self) -> dict[str, int]:
        windows = windows_in(self.spool)
        return {
            "requests": sum(window.requests for window in windows),
            "rejected": sum(window.rejected for window in windows),
            "labels": sum(window.labels_seen for window in windows),
            "errors": sum(window.errors.get("inference", 0) for window in windows),
        }

    @invariant()
    def never_more_than_there_was(self) -> None:
        if hasattr(self, "spool"):
            counted = self.counted()
            assert all(counted[key] <= self.recorded[key] for key in counted)

    def teardown(self) -> None:
        for writer in self.writers:
            writer.close()
        self.collector.collect(self.now_ms)
        assert self.counted() == self.recorded
        assert list((self.root / "rings").iterdir()) == []
        assert all(window.end_ms >= window.start_ms for window in windows_in(self.spool))
        self.stop_control()
        self.folder.cleanup()


CollectorMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestCollector = pytest.mark.slow(CollectorMachine.TestCase)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool.db", "device", size_bytes=1 << 30)


@pytest.fixture
def collector(tmp_path: Path, spool: Spool) -> TelemetryCollector:
    return TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=INTERVAL_S)


@pytest.mark.parametrize("point", CrashingSpool.POINTS)
@pytest.mark.parametrize("dead", [False, True])
def test_a_crash_at_each_point_loses_nothing_and_doubles_nothing(
    tmp_path: Path, point: str, dead: bool
) -> None:
    writer = new_ring(tmp_path / "rings" / "a.ring")
    for number in range(500):  # more than the ring holds: what found no room must be counted once, too
        writer.request(inputs_of(number), 1.0, 0, 0.5)
    if dead:
        writer.close()
    spool = CrashingSpool(tmp_path / "spool.db", "device", size_bytes=1 << 30)
    collector = TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=INTERVAL_S)
    spool.at = point
    if dead or point.endswith("append"):
        with pytest.raises(PowerCut):
            collector.collect(1000, flush=True)
    else:
        assert collector.collect(1000, flush=True) == 1
    collector.close()
    spool.close()
    if not dead:
        writer.close()
    after = Spool(tmp_path / "spool.db", "device", size_bytes=1 << 30)
    again = TelemetryCollector(tmp_path / "rings", after, device="device", interval_s=INTERVAL_S)
    again.collect(2000)
    assert sum(window.requests for window in windows_in(after)) == 500
    assert list((tmp_path / "rings").iterdir()) == []
    again.collect(3000)
    assert sum(window.requests for window in windows_in(after)) == 500


def test_a_window_closes_when_its_time_is_over(
    tmp_path: Path, spool: Spool, collector: TelemetryCollector
) -> None:
    writer = new_ring(tmp_path / "rings" / "a.ring")
    now_ms = time.time_ns() // 1_000_000
    assert collector.collect(now_ms) == 0
    writer.request(inputs_of(0), 1.0, 0, 0.5)
    assert collector.collect(now_ms + 9_999) == 0
    assert collector.collect(now_ms + 10_000) == 1
    assert collector.collect(now_ms + 30_000) == 0  # nothing happened: no window
    (window,) = windows_in(spool)
    assert (window.start_ms, window.end_ms) == (now_ms, now_ms + 10_000)
    assert (window.device, window.bundle, window.session) == ("device", BUNDLE, spool.session)


def test_a_window_closes_when_its_ring_is_half_full(tmp_path: Path, collector: TelemetryCollector) -> None:
    writer = new_ring(tmp_path / "rings" / "a.ring")
    capacity = RingReader(tmp_path / "rings" / "a.ring").capacity
    collector.collect(0)
    for _ in range(capacity // 2 - 1):
        writer.request(inputs_of(0), 1.0, 0, 0.5)
    assert collector.collect(1) == 0
    writer.request(inputs_of(0), 1.0, 0, 0.5)
    assert collector.collect(1) == 1


def test_rows_that_are_in_the_spool_make_room_for_new_ones(
    tmp_path: Path, spool: Spool, collector: TelemetryCollector
) -> None:
    writer = new_ring(tmp_path / "rings" / "a.ring")
    for _ in range(10):
        for number in range(100):  # ten times that is many times what the ring holds
            writer.request(inputs_of(number), 1.0, 0, 0.5)
        collector.collect(0, flush=True)
    windows = windows_in(spool)
    assert [window.requests for window in windows] == [100] * 10
    assert [window.unsampled for window in windows] == [0] * 10


def test_rows_that_are_not_in_the_spool_are_not_overwritten(tmp_path: Path) -> None:
    writer = new_ring(tmp_path / "rings" / "a.ring")
    for _ in range(100):
        writer.request(inputs_of(1), 1.0, 0, 0.5)
    spool = CrashingSpool(tmp_path / "spool.db", "device", size_bytes=1 << 30)
    collector = TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=INTERVAL_S)
    spool.at = "inside_append"
    with pytest.raises(PowerCut):
        collector.collect(0, flush=True)
    for _ in range(500):  # the serving process goes on without it
        writer.request(inputs_of(2), 1.0, 1, 0.5)
    spool.at = None
    collector.collect(0, flush=True)
    (window,) = windows_in(spool)
    assert window.classes["red"] == 100


def test_requests_counts_what_the_engine_answered(tmp_path: Path, collector: TelemetryCollector) -> None:
    writer = new_ring(tmp_path / "rings" / "a.ring")
    path = tmp_path / "rings" / "a.ring"
    for number in range(400):  # also beyond what the ring holds
        writer.request(inputs_of(number), 1.0, 0, 0.5)
    writer.tally(error_total("inference"))
    writer.request(inputs_of(0), 1.0, -1, 0.5)
    writer.tally(REJECTED)
    writer.note()
    assert collector.requests(path) == 400
    collector.collect(0, flush=True)
    assert collector.requests(path) == 400
    writer.close()
    collector.finish(path)
    assert collector.requests(path) == 0


def test_a_ring_left_from_before_a_restart_is_found(
    tmp_path: Path, spool: Spool, collector: TelemetryCollector
) -> None:
    writer = new_ring(tmp_path / "rings" / "a.ring")
    for _ in range(7):
        writer.request(inputs_of(0), 1.0, 0, 0.5)
    collector.collect(0, flush=True)
    for _ in range(5):
        writer.request(inputs_of(0), 1.0, 0, 0.5)
    writer.close()
    collector.close()
    again = TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=INTERVAL_S)
    assert again.collect(0) == 1
    assert [window.requests for window in windows_in(spool)] == [7, 5]
    assert list((tmp_path / "rings").iterdir()) == []
    assert spool.cursor("a.ring") == 0


def test_finish_of_a_ring_that_is_gone_does_nothing(
    tmp_path: Path, spool: Spool, collector: TelemetryCollector
) -> None:
    assert collector.finish(tmp_path / "rings" / "never.ring") == 0
    assert spool.count() == 0


def test_finish_of_a_living_writer_keeps_the_file(
    tmp_path: Path, spool: Spool, collector: TelemetryCollector
) -> None:
    path = tmp_path / "rings" / "a.ring"
    writer = new_ring(path)
    writer.request(inputs_of(0), 1.0, 0, 0.5)
    assert collector.finish(path) == 1
    writer.request(inputs_of(0), 1.0, 0, 0.5)
    writer.close()
    assert collector.collect(0) == 1
    assert sum(window.requests for window in windows_in(spool)) == 2
    assert not path.exists()


def test_a_damaged_ring_is_reported_and_removed(
    tmp_path: Path, spool: Spool, collector: TelemetryCollector
) -> None:
    (tmp_path / "rings" / "a.ring").write_bytes(b"not a ring")
    good = new_ring(tmp_path / "rings" / "b.ring")
    good.request(inputs_of(0), 1.0, 0, 0.5)
    assert collector.collect(0, flush=True) == 1
    events = [decode(entry.payload, Event) for entry in spool.pending(9) if entry.channel == "events"]
    assert [(event.kind, event.detail["ring"]) for event in events] == [("ring_damaged", "a.ring")]
    assert not (tmp_path / "rings" / "a.ring").exists()


def test_a_full_spool_leaves_rows_in_their_ring(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", "device", size_bytes=1)
    collector = TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=INTERVAL_S)
    writer = new_ring(tmp_path / "rings" / "a.ring")
    writer.request(inputs_of(0), 1.0, 0, 0.5)
    writer.close()
    with pytest.raises(SpoolFullError):
        collector.collect(0, flush=True)
    assert (tmp_path / "rings" / "a.ring").exists()
    spool.close()
    collector.close()
    larger = Spool(tmp_path / "spool.db", "device", size_bytes=1 << 30)
    again = TelemetryCollector(tmp_path / "rings", larger, device="device", interval_s=INTERVAL_S)
    again.collect(0)
    assert [window.requests for window in windows_in(larger)] == [1]


def test_what_a_process_left_that_died_making_its_ring_goes(tmp_path: Path, spool: Spool) -> None:
    (tmp_path / "rings").mkdir()
    (tmp_path / "rings" / "a.ring-new").write_bytes(b"")
    TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=INTERVAL_S)
    assert list((tmp_path / "rings").iterdir()) == []
