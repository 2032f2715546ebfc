"""Numbers and states as people read them. No data is a dash, never a zero."""

from __future__ import annotations

import re
from datetime import UTC, datetime

NONE = "–"
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
# What stands in brackets and is one word of code, such as (self_testing).
_SNAKE = re.compile(r"(?<=\()[a-z]+(?:_[a-z]+)+(?=\))")

# Which colour a phase of a rollout, a status of a device or a severity has.
TONES = {
    "completed": "ok", "updated": "ok", "online": "ok",
    "canary": "accent", "rolling_out": "accent", "approved": "accent", "installed": "accent",
    "paused": "warn", "rolling_back": "warn", "aborted": "warn", "returned": "warn", "warning": "warn",
    "failed": "bad", "revoked": "bad", "critical": "bad", "offline": "bad",
}  # fmt: skip


def share(value: float | None) -> str:
    """A share in [0, 1] as a percentage."""
    if value is None:
        return NONE
    return f"{value:.2%}" if 0 < value < 0.01 else f"{value:.1%}"


def milliseconds(value: float | None) -> str:
    """A duration in milliseconds with three digits."""
    if value is None:
        return NONE
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def count(value: int) -> str:
    """A whole number with separators."""
    return f"{value:,}"


def ago(at_ms: int | None, now_ms: int) -> str:
    """How long ago, in the largest unit that fits."""
    if at_ms is None:
        return "never"
    seconds = max(0, now_ms - at_ms) // 1000
    if seconds < 5:
        return "just now"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def clock(at_ms: int) -> str:
    """The time of day in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%H:%M:%S")


def stamp(at_ms: int) -> str:
    """Date and time in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def e_value(log10_e: float) -> str:
    """An e-value by its logarithm to base 10."""
    if 3 <= log10_e < 6:
        return f"{10**log10_e:,.0f}"
    return f"{10**log10_e:.3g}" if -3 < log10_e < 3 else f"10^{log10_e:.0f}"


def evidence(log10_e: float, log10_threshold: float) -> str:
    """An e-value and the one that is needed."""
    return f"e = {e_value(log10_e)} of {e_value(log10_threshold)}"


def phase(name: str) -> str:
    """A phase as words."""
    return name.replace("_", " ").replace("-", " ")


def shortened(text: str) -> str:
    """A text with its digests cut to twelve digits, by which people know them."""
    return _DIGEST.sub(lambda found: found.group()[:12], text)


def phase_in(text: str) -> str:
    """A text in which phases stand as they are spelled in code."""
    return _SNAKE.sub(lambda found: found.group().replace("_", " "), text)


def tone(name: str) -> str:
    """The colour class of a phase, status or severity; empty for a neutral one."""
    return TONES.get(name, "")
