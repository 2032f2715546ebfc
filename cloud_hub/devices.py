"""What the hub knows of its devices, read in one place: the twin's two sides, and telemetry's totals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, union_all

from cloud_hub.store import schema
from edgeops.errors import NotFoundError
from edgeops.messages import BundleRef


@dataclass(frozen=True)
class Running:
    """What a device says it has loaded. `name` and `version` are None for a bundle this hub does not have."""

    digest: str
    name: str | None
    version: str | None
    variant: str | None
    requests: int


@dataclass(frozen=True)
class Update:
    """Where the device's update stands, in the words of its update machine."""

    phase: str
    generation: int
    target_digest: str | None
    progress: float
    error: dict[str, Any] | None


@dataclass(frozen=True)
class Wanted:
    """What the hub wants the device to run; `bundle` None is: nothing."""

    generation: int
    bundle: BundleRef | None
    rollout: str | None


@dataclass(frozen=True)
class Device:
    """One device. `wanted` is None until something was assigned, `running` while nothing is loaded."""

    name: str
    site: str
    labels: dict[str, str]
    online: bool
    revoked: bool
    agent_version: str
    enrolled_at_ms: int
    certificate_expires_at_ms: int
    seen_at_ms: int | None
    reported_at_ms: int | None
    reported_generation: int
    window_at_ms: int | None
    running: Running | None
    update: Update
    wanted: Wanted | None

    @property
    def in_sync(self) -> bool:
        """Whether the device has loaded just what it should run. What was sent to it counts for nothing."""
        wanted = self.wanted.bundle.digest if self.wanted and self.wanted.bundle else None
        return (self.running.digest if self.running else None) == wanted


@dataclass(frozen=True)
class Telemetry:
    """Totals over everything received. `missing_windows` counts windows and events whose successors came."""

    windows: int
    requests: int
    errors: int
    rejected: int
    fallbacks: int
    missing_windows: int


def devices(
    connection: Connection, *, site: str | None = None, after: str | None = None, limit: int = 1000
) -> list[Device]:
    """Devices by name, at most `limit`, those after the name `after`, of one site if given."""
    query = _query().order_by(schema.devices.c.name).limit(limit)
    if site is not None:
        query = query.where(schema.devices.c.site == site)
    if after is not None:
        query = query.where(schema.devices.c.name > after)
    return [_device(row) for row in connection.execute(query)]


def device(connection: Connection, name: str) -> Device:
    """One device, or `NotFoundError`."""
    row = connection.execute(_query().where(schema.devices.c.name == name)).one_or_none()
    if row is None:
        raise NotFoundError(
            f"There is no device {name}.", remedy="edgeops fleet devices lists them.", subject=name
        )
    return _device(row)


def telemetry(connection: Connection, name: str) -> Telemetry:
    """The totals of one device's windows."""
    windows, events = schema.windows.c, schema.events.c
    sums = [
        func.coalesce(func.sum(column), 0)
        for column in (windows.requests, windows.errors, windows.rejected, windows.fallbacks)
    ]
    total = connection.execute(select(func.count(), *sums).where(windows.device == name)).one()
    # A session's sequence counts both from 1 without gaps.
    both = union_all(
        select(windows.session, windows.sequence).where(windows.device == name),
        select(events.session, events.sequence).where(events.device == name),
    ).subquery()
    gaps = select((func.max(both.c.sequence) - func.count()).label("gap")).group_by(both.c.session).subquery()
    missing = connection.execute(select(func.coalesce(func.sum(gaps.c.gap), 0))).scalar_one()
    received, requests, errors, rejected, fallbacks = (int(value) for value in total)
    return Telemetry(received, requests, errors, rejected, fallbacks, int(missing))


def _query() -> Select[Any]:
    running = schema.bundles.alias("running")
    wanted = schema.bundles.alias("wanted")
    return (
        select(
            schema.devices,
            running.c.name.label("running_name"),
            running.c.version.label("running_version"),
            schema.desired.c.generation.label("wanted_generation"),
            schema.desired.c.digest.label("wanted_digest"),
            schema.desired.c.rollout.label("wanted_rollout"),
            wanted.c.name.label("wanted_name"),
            wanted.c.version.label("wanted_version"),
        )
        .outerjoin(running, running.c.digest == schema.devices.c.running_digest)
        .outerjoin(schema.desired, schema.desired.c.device == schema.devices.c.name)
        .outerjoin(wanted, wanted.c.digest == schema.desired.c.digest)
    )


def _device(row: Row[Any]) -> Device:
    return Device(
        name=row.name,
        site=row.site,
        labels=json.loads(row.labels_json),
        online=row.online and row.revoked_at_ms is None,
        revoked=row.revoked_at_ms is not None,
        agent_version=row.agent_version,
        enrolled_at_ms=row.enrolled_at_ms,
        certificate_expires_at_ms=row.certificate_expires_at_ms,
        seen_at_ms=row.seen_at_ms,
        reported_at_ms=row.reported_at_ms,
        reported_generation=row.reported_generation,
        window_at_ms=row.window_at_ms,
        running=_running(row),
        update=Update(
            phase=row.update_phase,
            generation=row.update_generation,
            target_digest=row.update_target_digest,
            progress=row.update_progress,
            error=json.loads(row.update_error_json) if row.update_error_json else None,
        ),
        wanted=_wanted(row),
    )


def _running(row: Row[Any]) -> Running | None:
    if row.running_digest is None:
        return None
    return Running(
        digest=row.running_digest,
        name=row.running_name,
        version=row.running_version,
        variant=row.running_variant,
        requests=row.running_requests,
    )


def _wanted(row: Row[Any]) -> Wanted | None:
    if row.wanted_generation is None:
        return None
    bundle = None
    if row.wanted_digest is not None:
        bundle = BundleRef(name=row.wanted_name, version=row.wanted_version, digest=row.wanted_digest)
    return Wanted(row.wanted_generation, bundle, row.wanted_rollout)
