"""The telemetry ring against a model of it: every row that found room is read once, every count is exact."""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from device_agent.core.rows import (
    ITEM,
    LABELS_SEEN,
    MAX_ITEMS,
    NOTE,
    REJECTED,
    REQUEST,
    REQUESTS,
    UNSAMPLED,
    RingMeta,
    error_total,
    layout_of,
)
from device_agent.telemetry.recorder import HEADER, RingWriter
from device_agent.telemetry.ring_reader import RingReader
from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import Feature, TensorSpec
from edgeops_testkit.rings import BUNDLE, META, SMALL_RING_BYTES, inputs_of, new_ring

Row = tuple[int, int, float, float]


class RingMachine(RuleBasedStateMachine):
    """Interleaves a writer and a reader, which may be opened again at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "a.ring"
        self.writer = new_ring(self.path)
        self.reader = RingReader(self.path)
        self.capacity = self.reader.capacity
        self.rows: list[Row] = []  # what the ring should hold, since it began
        self.read: list[Row] = []
        self.cursor = 0
        self.counts = {REQUESTS: 0, REJECTED: 0, LABELS_SEEN: 0, UNSAMPLED: 0}
        self.next_value = 0.0

    def room(self, rows: int) -> bool:
        return len(self.rows) + rows <= self.cursor + self.capacity - 1

    @rule(predicted=st.integers(-1, 2), confidence=st.floats(0, 1, width=32), times=st.integers(1, 40))
    def request(self, predicted: int, confidence: float, times: int) -> None:
        for _ in range(times):
            self.next_value += 1
            if self.room(1):
                self.rows.append((REQUEST, predicted, confidence, self.next_value))
            self.counts[REQUESTS] += 1
            self.writer.request(inputs_of(self.next_value), 1.5, predicted, confidence)

    @rule(items=st.integers(2, 2 * MAX_ITEMS))
    def batch(self, items: int) -> None:
        self.next_value += 1
        kept = min(items, MAX_ITEMS)
        if self.room(kept):
            for item in range(kept):
                self.rows.append((ITEM if item else REQUEST, item % 3, 0.5, self.next_value))
            self.counts[UNSAMPLED] += items > MAX_ITEMS
        self.counts[REQUESTS] += 1
        predicted = [item % 3 for item in range(items)]
        self.writer.batch(inputs_of(self.next_value, items), 1.5, predicted, [0.5] * items)

    @rule(total=st.sampled_from([REJECTED, LABELS_SEEN]))
    def note(self, total: int) -> None:
        if self.room(1):
            self.rows.append((NOTE, -1, math.nan, 0.0))
        self.counts[total] += 1
        self.writer.tally(total)
        self.writer.note()

    @rule(share=st.floats(0, 1))
    def drain(self, share: float) -> None:
        head = self.reader.head()
        stop = self.cursor + round((head - self.cursor) * share)
        block = self.reader.rows(self.cursor, stop)
        for row in block:
            value = float(row["input_0"][0]) if row["kind"] != NOTE else 0.0
            self.read.append((int(row["kind"]), int(row["predicted"]), float(row["confidence"]), value))
        self.cursor = stop
        self.reader.release(stop)

    @rule()
    def reopen_reader(self) -> None:
        self.reader.close()
        self.reader = RingReader(self.path)

    @precondition(lambda self: self.cursor > 0)
    @rule()
    def totals_at_the_cursor_are_intact(self) -> None:
        before = sum(row[0] == REQUEST for row in self.rows[: self.cursor])
        assert int(self.reader.totals(self.cursor)[REQUESTS]) >= before

    @invariant()
    def head_is_what_found_room(self) -> None:
        assert self.reader.head() == len(self.rows)

    @invariant()
    def counts_are_exact(self) -> None:
        totals = np.maximum(self.reader.totals(len(self.rows)), self.reader.dropped_totals())
        assert {key: int(totals[key]) for key in self.counts} == self.counts

    @invariant()
    def rows_come_once_and_in_order(self) -> None:
        assert [repr(row) for row in self.read] == [repr(row) for row in self.rows[: self.cursor]]

    def teardown(self) -> None:
        self.reader.close()
        self.writer.close()
        self.folder.cleanup()


# A look at every check, and a long one with the slow tests.
RingMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
TestRing = RingMachine.TestCase


@pytest.mark.slow
def test_many_orders() -> None:
    run_state_machine_as_test(
        RingMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def test_a_ring_that_wraps_within_one_read_gives_rows_in_order(tmp_path: Path) -> None:
    writer, reader = new_ring(tmp_path / "a.ring"), RingReader(tmp_path / "a.ring")
    for value in range(reader.capacity - 10):
        writer.request(inputs_of(value), 1.0, 0, 0.5)
    cursor = reader.head()
    reader.release(cursor)
    for value in range(20):
        writer.request(inputs_of(1000 + value), 1.0, 0, 0.5)
    rows = reader.rows(cursor, reader.head())
    assert [int(row["input_0"][0]) for row in rows] == [1000 + value for value in range(20)]


def test_a_full_ring_keeps_what_it_has_and_counts_the_rest(tmp_path: Path) -> None:
    writer, reader = new_ring(tmp_path / "a.ring"), RingReader(tmp_path / "a.ring")
    for value in range(reader.capacity + 500):
        writer.request(inputs_of(value), 1.0, 0, 0.5)
    head = reader.head()
    assert head == reader.capacity - 1
    assert [int(value) for value in reader.rows(0, head)["input_0"][:, 0]] == list(range(head))
    assert int(reader.dropped_totals()[REQUESTS]) == reader.capacity + 500
    reader.release(head)
    writer.request(inputs_of(7), 1.0, 0, 0.5)
    assert int(reader.totals(head + 1)[REQUESTS]) == reader.capacity + 501


def test_rows_hold_the_input_bytes_also_of_arrays_that_are_not_contiguous(tmp_path: Path) -> None:
    writer, reader = new_ring(tmp_path / "a.ring"), RingReader(tmp_path / "a.ring")
    wide = np.arange(8, dtype=np.float32).reshape(1, 8)[:, ::2]
    assert not wide.flags.c_contiguous
    writer.request({"x": wide}, 1.0, 2, 0.25)
    row = reader.rows(0, 1)[0]
    assert row["input_0"].tolist() == [0, 2, 4, 6]
    assert (int(row["predicted"]), float(row["confidence"]), float(row["latency_ms"])) == (2, 0.25, 1.0)


@pytest.mark.parametrize("shape", [(-1, 4000), (-1, -1)])
def test_large_or_free_inputs_leave_only_their_features(tmp_path: Path, shape: tuple[int, ...]) -> None:
    meta = RingMeta(
        bundle=BUNDLE,
        variant="v",
        created_ms=0,
        inputs=(TensorSpec(name="x", dtype="FP32", shape=shape),),
        features=META.features,
        classes=(),
    )
    writer, reader = new_ring(tmp_path / "a.ring", meta=meta), RingReader(tmp_path / "a.ring")
    assert not reader.layout.raw
    values = np.random.default_rng(0).random((1, 4000), np.float32)
    writer.request({"x": values}, 1.0, -1, math.nan)
    mean, third = reader.rows(0, 1)[0]["features"]
    assert mean == pytest.approx(values.mean(), rel=1e-6)
    assert third == values[0, 2]


def test_a_feature_beyond_a_short_row_is_an_invalid_value(tmp_path: Path) -> None:
    meta = RingMeta(
        bundle=BUNDLE,
        variant="v",
        created_ms=0,
        inputs=(TensorSpec(name="x", dtype="FP32", shape=(-1, -1)),),
        features=META.features,
        classes=(),
    )
    writer, reader = new_ring(tmp_path / "a.ring", meta=meta), RingReader(tmp_path / "a.ring")
    writer.request({"x": np.ones((1, 2), np.float32)}, 1.0, -1, math.nan)
    mean, third = reader.rows(0, 1)[0]["features"]
    assert mean == 1
    assert math.isnan(third)


def test_a_feature_outside_a_fixed_row_is_refused() -> None:
    with pytest.raises(ArtifactError) as caught:
        layout_of(META.inputs, (Feature(name="far", input="x", kind="element", index=4),))
    assert caught.value.subject == "far"


def test_the_file_is_allocated_at_once(tmp_path: Path) -> None:
    writer = new_ring(tmp_path / "a.ring", 1 << 20)
    status = (tmp_path / "a.ring").stat()
    assert status.st_blocks * 512 >= status.st_size > (1 << 20) - 4096
    assert status.st_mode & 0o777 == 0o600
    writer.close()


def test_a_ring_too_small_for_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        RingWriter(tmp_path / "a.ring", 16 << 10, META)
    assert list(tmp_path.iterdir()) == []


def test_the_writer_is_alive_until_it_lets_go(tmp_path: Path) -> None:
    writer, reader = new_ring(tmp_path / "a.ring"), RingReader(tmp_path / "a.ring")
    assert not reader.writer_is_dead()
    writer.close()
    assert reader.writer_is_dead()
    # Asking must not leave the reader with the lock.
    fd = os.open(tmp_path / "a.ring", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"othering"),
        (8, b"\x63\0\0\0"),  # version
        (12, b"\xff\xff\xff\xff"),  # header size
        (16, b"\x08\0\0\0"),  # row size
        (20, b"\xff\xff\0\0"),  # meta size
        (24, b"\xff\xff\xff\xff\xff\xff\xff\xff"),  # capacity
        (512, b"not json"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, at: int, data: bytes) -> None:
    path = tmp_path / "a.ring"
    new_ring(path).close()
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        RingReader(path)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("size", [0, 1, HEADER.size, 600, SMALL_RING_BYTES // 2])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.ring"
    new_ring(path).close()
    os.truncate(path, size)
    with pytest.raises(ArtifactError):
        RingReader(path)


def test_unknown_error_kinds_count_as_internal() -> None:
    assert error_total("inference") != error_total("internal")
    assert error_total("config") == error_total("internal")
