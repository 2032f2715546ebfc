"""Numbers and states as people read them. No data is a dash, never a zero."""

from __future__ import annotations

from datetime import UTC, datetime

NONE = "–"

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


def phase(name: str) -> str:
    """A phase as words."""
    return name.replace("_", " ").replace("-", " ")


def tone(name: str) -> str:
    """The colour class of a phase, status or severity; empty for a neutral one."""
    return TONES.get(name, "")
