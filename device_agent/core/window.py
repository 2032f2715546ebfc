"""From the rows of a telemetry ring to a window: a pure, vectorised function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.core.rows import (
    ERROR_KINDS,
    ERRORS,
    FALLBACK_FAILURES,
    FALLBACK_REASONS,
    FALLBACKS,
    ITEM,
    LABELS_RIGHT,
    LABELS_SEEN,
    OUTSIDE,
    REJECTED,
    REQUEST,
    REQUESTS,
    UNSAMPLED,
    RingMeta,
    RowLayout,
    Rows,
    Totals,
    input_field,
)
from edgeops.features import feature_columns
from edgeops.messages import FeatureProfile, Window
from edgeops.sketches import kll_of, profile_of


@dataclass(frozen=True, slots=True)
class Block:
    """What was drained for one window: the rows, and the totals before and after them. `after` may be
    ahead of the last row's own, by what was counted without finding room."""

    rows: Rows
    before: Totals
    after: Totals

    def is_empty(self) -> bool:
        """Whether nothing at all was counted."""
        return bool(np.array_equal(self.before, self.after))


def window_of(
    block: Block,
    meta: RingMeta,
    layout: RowLayout,
    *,
    device: str,
    session: int,
    sequence: int,
    start_ms: int,
    end_ms: int,
) -> Window:
    """The window of a block.

    Counts come from the totals and are exact. Latency is the device's own (without the cloud's) of the
    requests that it could answer; confidence and classes are those of its own answers, item by item;
    features those of all well-formed items. `start_ms` and `end_ms` are widened to hold every row.
    """
    counts = [int(value) for value in block.after - block.before]
    requests = block.rows[block.rows["kind"] == REQUEST]
    items = block.rows[(block.rows["kind"] == REQUEST) | (block.rows["kind"] == ITEM)]
    times = block.rows["end_ms"]
    return Window(
        device=device,
        session=session,
        sequence=sequence,
        start_ms=min(start_ms, int(times.min(initial=start_ms))),
        end_ms=max(end_ms, int(times.max(initial=end_ms))),
        bundle=meta.bundle,
        variant=meta.variant,
        requests=counts[REQUESTS],
        errors=_named(counts, ERRORS, ERROR_KINDS),
        rejected=counts[REJECTED],
        latency=kll_of(requests["latency_ms"]),
        confidence=kll_of(items["confidence"]),
        classes=_classes(items["predicted"], meta.classes),
        features=_features(items, meta, layout),
        fallbacks=_named(counts, FALLBACKS, FALLBACK_REASONS),
        fallback_failures=_named(counts, FALLBACK_FAILURES, FALLBACK_REASONS),
        labels_seen=counts[LABELS_SEEN],
        labels_right=counts[LABELS_RIGHT],
        unsampled=counts[UNSAMPLED] + counts[REQUESTS] - len(requests),
        outside=counts[OUTSIDE],
    )


def _named(counts: Sequence[int], start: int, names: Sequence[str]) -> dict[str, int]:
    return {name: counts[start + number] for number, name in enumerate(names) if counts[start + number]}


def _classes(predicted: npt.NDArray[np.int32], names: Sequence[str]) -> dict[str, int]:
    known = predicted[(predicted >= 0) & (predicted < len(names))]
    counts = np.bincount(known, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _features(items: Rows, meta: RingMeta, layout: RowLayout) -> dict[str, FeatureProfile]:
    if not len(items):
        columns = {feature.name: np.empty(0, np.float32) for feature in meta.features}
    elif layout.raw:
        inputs = {spec.name: items[input_field(number)] for number, spec in enumerate(meta.inputs)}
        columns = feature_columns(meta.features, inputs)
    else:
        columns = {feature.name: items["features"][:, i] for i, feature in enumerate(meta.features)}
    return {name: profile_of(column) for name, column in columns.items()}
