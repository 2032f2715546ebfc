"""A small harness: each bench module has `run(quick: bool) -> Table`; `python -m benchmarks` runs them all.

Figures are medians over interleaved (paired) runs, so that a machine whose speed drifts is compared
with itself. `python -m benchmarks` writes `benchmarks/README.md` and `benchmarks/results.json`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """One bench's outcome. `rows` map column names to figures; `aim` is what was hoped for, `seen` what
    was measured, both as short sentences."""

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    command: str
    aim: str
    seen: str
    notes: Sequence[str] = field(default_factory=tuple)


def paired(first: Callable[[], float], second: Callable[[], float], runs: int) -> tuple[float, float, float]:
    """Runs A, B, A, B, … and returns the median of A, of B, and of B minus A pair by pair."""
    a: list[float] = []
    b: list[float] = []
    for _ in range(runs):
        a.append(first())
        b.append(second())
    differences = [y - x for x, y in zip(a, b, strict=True)]
    return statistics.median(a), statistics.median(b), statistics.median(differences)
