"""What the page of one device shows, read from the database in one go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select

from cloud_hub import devices
from cloud_hub.devices import Device, Telemetry
from cloud_hub.store import schema
from cloud_hub.store.database import reading
from edgeops.messages import Window, decode
from edgeops.sketches import merge

MOST_WINDOWS = 120
MOST_EVENTS = 50


@dataclass(frozen=True)
class WindowRow:
    """One window of telemetry. Latencies are None where nothing was answered."""

    end_ms: int
    version: str
    requests: int
    errors: int
    rejected: int
    fallbacks: int
    labels_seen: int
    labels_right: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class EventRow:
    """Something that happened on the device."""

    at_ms: int
    kind: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class DeviceView:
    """One device now: both sides of its twin, totals, and the newest windows and events, newest first."""

    at_ms: int
    device: Device
    telemetry: Telemetry
    windows: tuple[WindowRow, ...]
    events: tuple[EventRow, ...]


def load_device(engine: Engine, name: str, now_ms: int) -> DeviceView:
    """Reads the view. Raises `NotFoundError`."""
    with reading(engine) as connection:
        return DeviceView(
            at_ms=now_ms,
            device=devices.device(connection, name),
            telemetry=devices.telemetry(connection, name),
            windows=_windows(connection, name),
            events=_events(connection, name),
        )


def _windows(connection: Connection, name: str) -> tuple[WindowRow, ...]:
    table = schema.windows
    # By session and sequence, not by id: the unique index answers that without a look at other devices.
    query = (
        select(table)
        .where(table.c.device == name)
        .order_by(table.c.session.desc(), table.c.sequence.desc())
        .limit(MOST_WINDOWS)
    )
    rows = []
    for row in connection.execute(query):
        window = decode(row.payload, Window)
        p50, p99 = _latency(window)
        rows.append(
            WindowRow(
                end_ms=row.end_ms,
                version=f"{window.bundle.name} {window.bundle.version}",
                requests=row.requests,
                errors=row.errors,
                rejected=row.rejected,
                fallbacks=row.fallbacks,
                labels_seen=row.labels_seen,
                labels_right=row.labels_right,
                p50_ms=p50,
                p99_ms=p99,
            )
        )
    return tuple(rows)


def _latency(window: Window) -> tuple[float | None, float | None]:
    sketch = merge([window.latency])
    if sketch.count == 0:
        return None, None
    p50, p99 = sketch.quantiles([0.5, 0.99])
    return float(p50), float(p99)


def _events(connection: Connection, name: str) -> tuple[EventRow, ...]:
    table = schema.events
    query = (
        select(table)
        .where(table.c.device == name)
        .order_by(table.c.session.desc(), table.c.sequence.desc())
        .limit(MOST_EVENTS)
    )
    return tuple(
        EventRow(row.at_ms, row.kind, json.loads(row.detail_json)) for row in connection.execute(query)
    )
