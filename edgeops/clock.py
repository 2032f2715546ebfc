"""Wall-clock time as the contracts carry it: whole milliseconds since 1970-01-01T00:00:00Z."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """Now, in milliseconds UTC."""
    return time.time_ns() // 1_000_000


def iso(at_ms: int) -> str:
    """RFC 3339 in UTC with millisecond precision, such as `2026-01-31T12:00:00.000Z`."""
    text = datetime.fromtimestamp(at_ms / 1000, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
