"""From rows to a window: every field against a plain loop over what was recorded."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.core.rows import (
    LABELS_RIGHT,
    LABELS_SEEN,
    OUTSIDE,
    REJECTED,
    error_total,
    fallback_total,
)
from device_agent.core.window import Block, window_of
from device_agent.telemetry.ring_reader import RingReader
from edgeops.messages import Window
from edgeops.sketches import Sketch
from edgeops_testkit.rings import BUNDLE, CLASSES, META, inputs_of, new_ring

requests = st.lists(
    st.tuples(st.integers(-1, 2), st.floats(0, 1, width=32), st.floats(0, 50, width=32)), max_size=60
)


def window_from(reader: RingReader, cursor: int = 0, **times: int) -> Window:
    head = reader.head()
    block = Block(reader.rows(cursor, head), reader.totals(cursor), reader.totals(head))
    given: dict[str, Any] = {"start_ms": 10, "end_ms": 20, **times}
    return window_of(block, reader.meta, reader.layout, device="d", session=1, sequence=2, **given)


@given(requests)
@settings(max_examples=40, deadline=None)
def test_sketches_classes_and_features_are_those_of_the_requests(
    tmp_path_factory: pytest.TempPathFactory, answers: list[tuple[int, float, float]]
) -> None:
    path = tmp_path_factory.mktemp("ring") / "a.ring"
    writer = new_ring(path)
    for number, (predicted, confidence, latency_ms) in enumerate(answers):
        writer.request(inputs_of(number), latency_ms, predicted, confidence)
    reader = RingReader(path)
    window = window_from(reader)
    assert (window.requests, window.unsampled) == (len(answers), 0)
    assert window.classes == Counter(CLASSES[predicted] for predicted, _, _ in answers if predicted >= 0)
    latencies = np.array([latency_ms for _, _, latency_ms in answers], np.float32)
    sketch = Sketch.parse(window.latency)
    assert sketch.count == len(answers)
    if answers:
        assert sketch.quantiles([0, 1]) == [latencies.min(), latencies.max()]
        assert window.features["mean"].mean == pytest.approx(np.mean(np.arange(len(answers)) + 1.5))
        assert window.features["third"].maximum == len(answers) - 1 + 2
    reader.close()
    writer.close()


def test_counts_by_kind_and_reason(tmp_path: Path) -> None:
    writer = new_ring(tmp_path / "a.ring")
    nan = math.nan
    for _ in range(3):
        writer.tally(error_total("inference"))
        writer.request(inputs_of(0), nan, -1, nan)
    writer.tally(error_total("internal"))
    writer.tally(fallback_total("device_error", answered=True))
    writer.request(inputs_of(0), nan, -1, nan)
    for _ in range(2):
        writer.tally(fallback_total("low_confidence", answered=True))
        writer.request(inputs_of(0), 1.0, 1, 0.25)
    writer.tally(fallback_total("low_confidence", answered=False))
    writer.request(inputs_of(0), 1.0, 2, 0.25)
    writer.tally(fallback_total("requested", answered=False))
    writer.request(inputs_of(0), 1.0, 2, 0.75)
    writer.tally(OUTSIDE)
    writer.request(inputs_of(0), 1.0, 2, 0.75)
    writer.tally(REJECTED)
    writer.note()
    for right in (True, True, False):
        writer.tally(LABELS_SEEN)
        if right:
            writer.tally(LABELS_RIGHT)
        writer.note()
    window = window_from(RingReader(tmp_path / "a.ring"))
    assert (window.requests, window.outside) == (9, 1)
    assert window.errors == {"inference": 3, "internal": 1}
    assert window.rejected == 1
    assert window.fallbacks == {"low_confidence": 2, "device_error": 1}
    assert window.fallback_failures == {"low_confidence": 1, "requested": 1}
    assert (window.labels_seen, window.labels_right) == (3, 2)
    assert window.classes == {"green": 2, "blue": 3}
    assert Sketch.parse(window.latency).count == 5  # failed requests have none
    assert Sketch.parse(window.confidence).count == 5
    assert window.features["mean"].count == 9  # their inputs were well-formed
    assert (window.bundle, window.variant, window.device) == (BUNDLE, META.variant, "d")
    assert (window.session, window.sequence, window.unsampled) == (1, 2, 0)


def test_a_batch_counts_once_and_its_items_each(tmp_path: Path) -> None:
    writer = new_ring(tmp_path / "a.ring")
    writer.batch(inputs_of(5, 3), 2.0, [0, 0, 2], [0.5, 0.75, 0.25])
    writer.batch(inputs_of(5, 70), 2.0, [1] * 70, [0.5] * 70)
    window = window_from(RingReader(tmp_path / "a.ring"))
    assert window.requests == 2
    assert window.classes == {"red": 2, "green": 64, "blue": 1}
    assert Sketch.parse(window.latency).count == 2
    assert Sketch.parse(window.confidence).count == 67
    assert window.features["third"].count == 67
    assert window.unsampled == 1  # the second is larger than what is kept of one request


def test_the_interval_is_widened_to_hold_every_row(tmp_path: Path) -> None:
    writer = new_ring(tmp_path / "a.ring")
    writer.request(inputs_of(0), 1.0, 0, 0.5)
    reader = RingReader(tmp_path / "a.ring")
    at_ms = int(reader.rows(0, 1)["end_ms"][0])
    assert window_from(reader, start_ms=10, end_ms=20).end_ms == at_ms
    late = window_from(reader, start_ms=at_ms + 5, end_ms=at_ms + 9)
    assert (late.start_ms, late.end_ms) == (at_ms, at_ms + 9)
