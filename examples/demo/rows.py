"""What the demo saw: one row a claim, each measured, none narrated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One claim: what was expected, what was measured, and whether the one fits the other."""

    step: str
    expected: str
    seen: str
    holds: bool
    took_s: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
