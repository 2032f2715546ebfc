"""What an evaluation leaves: `evaluation.json`, which follows from recipe, code and tools, and
`measurements.json`, which is true of one run on one machine. Needs no engine and no NumPy.

Figures are rounded to six digits: what lies beyond is the machine's rounding, and evaluations are part of
a bundle's identity.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

EVALUATION_FILE = "evaluation.json"
OUTPUTS_FILE = "outputs.npz"
# The name of a class's slice begins so; an attribute's reads `attribute=value`.
CLASS_SLICE = "class="

Figures = dict[str, float | None]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy for each value of one attribute. `gap` is the largest less the smallest, over the values with
    rows enough (the others are `excluded`); None if fewer than two have."""

    gap: float | None
    values: Figures
    rows: dict[str, int]
    excluded: tuple[str, ...] = ()


class BehaviourResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a behavioural case gave. For token classification `expected` and `got` are one class a word,
    parted by spaces, and `confidence` is that of the least sure word."""

    name: str
    passed: bool
    expected: str
    got: str
    confidence: float
    min_confidence: float = 0.0


class PromptResult(msgspec.Struct, frozen=True, kw_only=True):
    """The greedy answer to a prompt case, and which of the expected properties it lacks."""

    name: str
    passed: bool
    answer: str
    failed: tuple[str, ...] = ()
    tokens: int = 0


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of a reliability diagram: answers whose confidence lies in [`start`, `end`) (the last bin has
    its end too), their mean confidence and their accuracy; None where there is no answer."""

    start: float = msgspec.field(name="from")
    end: float = msgspec.field(name="to")
    rows: int
    confidence: float | None
    accuracy: float | None


class EvaluationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One variant on the held-out rows, in its engine.

    `metrics` are what gates judge by name (see toolchain/recipe/evaluation.py); one that does not apply is
    not there, one that could not be told is None. `source` holds the same figures of the model itself, in
    the library that it was made with. `slices` maps `class=<name>` and `<attribute>=<value>` to figures of
    those items alone, and their number, `rows`. The whole has `rows` and `items`: what was classified, rows
    or words. `confusion[i][j]` counts items of class i that were taken for class j. For language models
    `tokens` counts what was scored. `dimensions` is the size of an embedding.
    """

    variant: str
    format: str
    precision: str
    size_bytes: int
    metrics: Figures
    rows: int | None = None
    items: int | None = None
    tokens: int | None = None
    vocabulary_size: int | None = None
    dimensions: int | None = None
    classes: tuple[str, ...] = ()
    source: Figures = {}
    slices: dict[str, Figures] = {}
    groups: dict[str, Group] = {}
    behaviours: tuple[BehaviourResult, ...] = ()
    prompts: tuple[PromptResult, ...] = ()
    robustness: dict[str, float | int | None] | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    reliability: tuple[Bin, ...] | None = None

    def figure(self, metric: str, *, slice: str | None = None, group: str | None = None) -> float | None:
        """The figure that a gate means, or None if there is none: of the whole, of one slice (a class's name,
        or `attribute=value`), or the gap between the values of one attribute."""
        if group is not None:
            found = self.groups.get(group)
            return None if found is None or metric != "group_gap" else found.gap
        if slice is None:
            return self.metrics.get(metric)
        narrowed = self.slices.get(slice, self.slices.get(f"{CLASS_SLICE}{slice}", {}))
        return narrowed.get(metric)

    def to_dict(self) -> dict[str, Any]:
        """As `evaluation.json` holds it."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value


def read_evaluation(value: Any) -> EvaluationResult:
    """The evaluation in the JSON value."""
    return msgspec.convert(value, EvaluationResult)


def rounded(value: float) -> float | None:
    """The value to six digits after the point; None if it is not finite, which fails every gate."""
    value = float(value)
    # Adding 0 makes -0.0, which some sums give, the 0.0 that it is.
    return round(value, 6) + 0.0 if math.isfinite(value) else None


def two_digits(value: float) -> float | None:
    """The value to two significant digits, for differences that are all rounding; None if not finite."""
    return float(f"{float(value):.1e}") if math.isfinite(value) else None
