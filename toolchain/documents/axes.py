"""Scales of plots, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels, linear or logarithmic, with its ticks."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    # What ticks are round multiples of, such as 1024.
    unit: float = 1.0

    def at(self, value: float) -> float:
        """The pixel of the value."""
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values inside."""
        if self.logarithmic:
            # Sizes are told in KiB and MiB, so their round values are powers of two.
            first, last = math.ceil(math.log2(self.low)), math.floor(math.log2(self.high))
            apart = max(math.ceil((last - first) / count), 1)
            return [2.0**power for power in range(first, last + 1, apart)]
        step = _round_step((self.high - self.low) / count / self.unit) * self.unit
        first = math.ceil(self.low / step - 1e-9)
        return [
            number * step
            for number in range(first, first + 3 * count)
            if number * step <= self.high + step * 1e-9
        ]


def spread(values: Sequence[float], *, share: float = 0.08, floor: float = 1e-3) -> tuple[float, float]:
    """The range of the values with some room on both sides."""
    low, high = min(values), max(values)
    room = max((high - low) * share, floor, abs(high) * 1e-3)
    return low - room, high + room


def size_text(size_bytes: float) -> str:
    """A size for people: 1024 bytes are a KiB."""
    size, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"


def figure_text(metric: str, value: float | None) -> str:
    """A metric's figure with its unit, short enough for a table; a dash if there is none."""
    if value is None:
        return "–"
    if metric.endswith("_bytes"):
        return size_text(value)
    if metric.endswith("_ms"):
        return f"{value:.3g} ms"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def metric_words(metric: str) -> str:
    """A metric's name as a reader has it."""
    return metric.replace("_", " ")


def percent_text(share: float) -> str:
    """A share in per cent, with as many digits as it takes."""
    return f"{share * 100:.3g}%"


def shortened(text: str, length: int) -> str:
    """The text, cut with an ellipsis if it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= step * 0.999)
