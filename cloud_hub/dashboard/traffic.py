"""Requests per second over time, by version, from windows of any length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from cloud_hub.store import schema

BUCKET_MS = 5_000
SPAN_MS = 10 * 60_000
# A device may close its windows as rarely as once an hour; the chart does not wait for that.
_MAX_LAG_MS = 2 * 60_000


@dataclass(frozen=True)
class Part:
    """Windows of one version that begin and end in the same buckets, with their mean begin and end."""

    label: str
    start_ms: float
    end_ms: float
    requests: int


@dataclass(frozen=True)
class Traffic:
    """By version, requests per second in each bucket, which are named by their beginning. None: nobody sent
    telemetry of that time."""

    buckets: tuple[int, ...]
    rates: dict[str, tuple[float | None, ...]]


def load_traffic(connection: Connection, labels: Mapping[str, str], now_ms: int, after_id: int) -> Traffic:
    """The last `SPAN_MS`, from windows with a row id above `after_id`; `labels` names versions by digest."""
    windows = schema.windows.c
    group = (
        windows.digest,
        (windows.start_ms - windows.start_ms % BUCKET_MS).label("first"),
        (windows.end_ms - windows.end_ms % BUCKET_MS).label("last"),
    )
    query = (
        select(
            windows.digest,
            func.avg(windows.start_ms).label("start_ms"),
            func.avg(windows.end_ms).label("end_ms"),
            func.sum(windows.requests).label("requests"),
        )
        .where(windows.id > after_id, windows.end_ms > now_ms - SPAN_MS, windows.start_ms < now_ms)
        .group_by(*group)
    )
    parts = [
        Part(
            labels.get(row.digest, f"unknown {row.digest[:12]}"),
            float(row.start_ms),
            float(row.end_ms),
            int(row.requests),
        )
        for row in connection.execute(query)
    ]
    return spread(parts, now_ms)


def spread(parts: Iterable[Part], now_ms: int) -> Traffic:
    """Spreads each part's requests evenly over the time that it covers.

    The newest telemetry is a window's length old, so the chart ends that long ago (two minutes at most):
    else it would seem to drop at its end.
    """
    known = list(parts)
    lag_ms = min(_MAX_LAG_MS, max((part.end_ms - part.start_ms for part in known), default=0))
    end = int(now_ms - lag_ms) // BUCKET_MS * BUCKET_MS
    buckets = tuple(range(end - SPAN_MS, end, BUCKET_MS))
    sums: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    covered: set[int] = set()
    for part in known:
        sums[part.label]  # a version that only idled has a line too
        length_ms = max(1.0, part.end_ms - part.start_ms)
        first = int(part.start_ms) // BUCKET_MS * BUCKET_MS
        for bucket in range(max(first, buckets[0]), min(int(part.end_ms) + 1, end), BUCKET_MS):
            share = (min(part.end_ms, bucket + BUCKET_MS) - max(part.start_ms, bucket)) / length_ms
            if share > 0:
                covered.add(bucket)
                sums[part.label][bucket] += part.requests * share
    rates = {
        label: tuple(
            found.get(bucket, 0.0) / (BUCKET_MS / 1000) if bucket in covered else None for bucket in buckets
        )
        for label, found in sorted(sums.items())
    }
    return Traffic(buckets, rates)
