"""What the fleet page shows, read from the database in one go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select

from cloud_hub import devices
from cloud_hub.dashboard.traffic import Traffic, load_traffic
from cloud_hub.devices import Device
from cloud_hub.store import schema
from cloud_hub.store.database import reading
from edgeops.messages import Window, decode
from edgeops.sketches import merge

RECENT_MS = 60_000
# However fast windows come in, a look reads no more than the newest of them.
_MAX_WINDOWS = 20_000
_MAX_LATENCY_WINDOWS = 200
MAX_DEVICES = 1_000


@dataclass(frozen=True)
class Recent:
    """The last minute of the whole fleet. Rates are None where nothing was seen: no data is not zero."""

    requests: int
    errors: int
    fallbacks: int
    labels: int
    labels_right: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None

    @property
    def error_rate(self) -> float | None:
        """Failed requests as a share of all."""
        return self.errors / self.requests if self.requests else None

    @property
    def fallback_share(self) -> float | None:
        """Requests that the cloud answered as a share of all."""
        return self.fallbacks / self.requests if self.requests else None

    @property
    def accuracy(self) -> float | None:
        """Right answers as a share of those labelled."""
        return self.labels_right / self.labels if self.labels else None


@dataclass(frozen=True)
class FleetView:
    """The fleet now."""

    at_ms: int
    devices: tuple[Device, ...]
    enrolled: int
    online: int
    in_sync: int
    versions: tuple[tuple[str, int], ...]
    recent: Recent
    traffic: Traffic


def load_fleet(engine: Engine, now_ms: int) -> FleetView:
    """Reads the view. Costs one pass over the newest windows, not over all."""
    with reading(engine) as connection:
        found = devices.devices(connection, limit=MAX_DEVICES)
        enrolled = connection.execute(select(func.count()).select_from(schema.devices)).scalar_one()
        labels = _labels(connection)
        newest = _newest(connection)
        traffic = load_traffic(connection, labels, now_ms, newest)
        recent = _recent(connection, now_ms, newest)
    alive = [device for device in found if not device.revoked]
    running = Counter(_version(device) for device in alive)
    return FleetView(
        at_ms=now_ms,
        devices=tuple(found),
        enrolled=int(enrolled),
        online=sum(device.online for device in alive),
        in_sync=sum(device.in_sync for device in alive),
        versions=tuple(sorted(running.items(), key=lambda item: (-item[1], item[0]))),
        recent=recent,
        traffic=traffic,
    )


def _version(device: Device) -> str:
    if device.running is None:
        return "nothing"
    if device.running.name is None:
        return f"unknown {device.running.digest[:12]}"
    return f"{device.running.name} {device.running.version}"


def _labels(connection: Connection) -> dict[str, str]:
    query = select(schema.bundles.c.digest, schema.bundles.c.name, schema.bundles.c.version)
    return {row.digest: f"{row.name} {row.version}" for row in connection.execute(query)}


def _newest(connection: Connection) -> int:
    newest = connection.execute(select(func.max(schema.windows.c.id))).scalar_one()
    return int(newest or 0) - _MAX_WINDOWS


def _recent(connection: Connection, now_ms: int, newest: int) -> Recent:
    windows = schema.windows.c
    recent = (windows.id > newest, windows.end_ms >= now_ms - RECENT_MS)
    columns = (windows.requests, windows.errors, windows.labels_seen, windows.labels_right, windows.fallbacks)
    sums = connection.execute(
        select(*(func.coalesce(func.sum(column), 0) for column in columns)).where(*recent)
    ).one()
    requests, errors, seen, right, fallbacks = (int(value) for value in sums)
    p50, p99 = _latency(connection, now_ms, newest)
    return Recent(
        requests=requests,
        errors=errors,
        fallbacks=fallbacks,
        labels=seen,
        labels_right=right,
        latency_p50_ms=p50,
        latency_p99_ms=p99,
    )


def _latency(connection: Connection, now_ms: int, newest: int) -> tuple[float | None, float | None]:
    windows = schema.windows.c
    query = (
        select(windows.payload)
        .where(windows.id > newest, windows.end_ms >= now_ms - RECENT_MS, windows.requests > 0)
        .order_by(windows.id.desc())
        .limit(_MAX_LATENCY_WINDOWS)
    )
    sketches = [decode(payload, Window).latency for payload in connection.execute(query).scalars()]
    if not sketches:
        return None, None
    merged = merge(sketches)
    if merged.count == 0:
        return None, None
    p50, p99 = merged.quantiles([0.5, 0.99])
    return float(p50), float(p99)
