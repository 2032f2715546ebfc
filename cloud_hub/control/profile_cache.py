"""Merged feature sketches of the recent windows, by bundle, site and time: what the monitor loop judges.

Every window is decoded once. Its sketches are merged into a *slice* of time, and what is judged is the merge
of the slices within the span; so a look costs as many merges as there are slices, however many windows came.
The cache is memory only: after a restart it is read again from the windows of the last span.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from cloud_hub.store import schema
from edgeops.errors import BadRequestError
from edgeops.messages import Window, decode
from edgeops.sketches import Sketch

SLICES = 20
# The name under which the model's own confidence is judged, beside the features of its manifest.
CONFIDENCE = "confidence"


@dataclass(frozen=True)
class Source:
    """Where merged sketches come from: one bundle at one site."""

    model: str
    digest: str
    site: str


Features = dict[str, Sketch]


class ProfileCache:
    """The sketches of the windows that ended within the last `span_ms`. One thread at a time."""

    def __init__(self, span_ms: int) -> None:
        self._span_ms = span_ms
        self._slice_ms = max(1, span_ms // SLICES)
        self._slices: dict[int, dict[Source, Features]] = defaultdict(dict)
        self._cursor: int | None = None

    def read(
        self, connection: Connection, sites: Mapping[str, str], now_ms: int, limit: int
    ) -> tuple[int, int]:
        """Takes in up to `limit` windows that came since the last call; returns how many it read, and how
        many sketches were damaged and left out. `sites` maps devices to sites."""
        if self._cursor is None:
            self._cursor = _last_before(connection, now_ms - self._span_ms)
        windows = schema.windows.c
        query = (
            select(windows.id, windows.received_ms, windows.payload)
            .where(windows.id > self._cursor)
            .order_by(windows.id)
            .limit(limit)
        )
        read = damaged = 0
        for row in connection.execute(query):
            damaged += self._add(decode(row.payload, Window), row.received_ms, sites, now_ms)
            self._cursor = row.id
            read += 1
        return read, damaged

    def merged(self, now_ms: int) -> dict[Source, Features]:
        """One sketch per source and feature, over the whole span; older slices are forgotten."""
        for old in [at for at in self._slices if self._is_over(at, now_ms)]:
            del self._slices[old]
        result: dict[Source, Features] = defaultdict(dict)
        for sources in self._slices.values():
            for source, features in sources.items():
                _merge(result[source], features)
        return dict(result)

    def _add(self, window: Window, received_ms: int, sites: Mapping[str, str], now_ms: int) -> int:
        # A device's clock may be ahead; then its window ended when it came, at the latest.
        at = min(window.end_ms, received_ms) // self._slice_ms
        site = sites.get(window.device)
        if site is None or self._is_over(at, now_ms):
            return 0
        features, damaged = _sketches(window)
        source = Source(window.bundle.name, window.bundle.digest, site)
        _merge(self._slices[at].setdefault(source, {}), features)
        return damaged

    def _is_over(self, at: int, now_ms: int) -> bool:
        return (at + 1) * self._slice_ms <= now_ms - self._span_ms


def _sketches(window: Window) -> tuple[Features, int]:
    serialized = {name: profile.kll for name, profile in window.features.items()}
    features: Features = {}
    damaged = 0
    for name, data in {**serialized, CONFIDENCE: window.confidence}.items():
        try:
            features[name] = Sketch.parse(data)
        except BadRequestError:
            damaged += 1
    return features, damaged


def _merge(into: Features, features: Features) -> None:
    for name, sketch in features.items():
        into.setdefault(name, Sketch()).merge(sketch)


def _last_before(connection: Connection, received_ms: int) -> int:
    """The newest window received before a time; from there on everything is read. 0 if there is none."""
    windows = schema.windows.c
    query = select(windows.id).where(windows.received_ms < received_ms).order_by(windows.id.desc()).limit(1)
    return connection.execute(query).scalar_one_or_none() or 0
