"""What the rollout machine looks at, read from the database: the twins, and the windows since its cursor.

Windows are read in the order of their ids, which is the order of their arrival: a device that was offline
delivers late, and is counted then. On SQLite ids are committed in order. With several ingest processes on
PostgreSQL a lower id may be committed after a higher one; a cursor must then stay behind the oldest writer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, func, select

from cloud_hub.store import schema
from edgeops.messages import BundleRef
from fleet.cohorts import Member
from fleet.evidence import Counts, Sample
from fleet.progress import Report
from fleet.rollout_types import Look, Rollout

# A look reads at most so many windows; the rest waits for the next look.
WINDOWS_PER_LOOK = 20_000


def newest_window(connection: Connection) -> int:
    """The id of the last window received; 0 before the first."""
    return int(connection.execute(select(func.coalesce(func.max(schema.windows.c.id), 0))).scalar_one())


def look(connection: Connection, rollout: Rollout) -> Look:
    """A look at the rollout's devices, and at the windows that came since the last one."""
    samples, cursor = _samples(connection, rollout)
    names = [each.name for each in rollout.state.plan.devices]
    return Look(reports=tuple(reports(connection, names)), samples=samples, cursor=cursor)


def reports(connection: Connection, names: Iterable[str]) -> list[Report]:
    """Both sides of the twins of these devices."""
    devices, desired = schema.devices, schema.desired
    query = select(devices, desired.c.generation, desired.c.digest.label("desired_digest")).outerjoin(
        desired, desired.c.device == devices.c.name
    )
    wanted = set(names)
    return [_report(row) for row in connection.execute(query) if row.name in wanted]


def fleet(connection: Connection) -> tuple[list[Member], dict[str, BundleRef | None]]:
    """Every device that is not revoked, and the bundle that it is to run."""
    devices, desired, bundles = schema.devices, schema.desired, schema.bundles
    query = (
        select(devices, bundles.c.digest, bundles.c.name.label("model"), bundles.c.version)
        .outerjoin(desired, desired.c.device == devices.c.name)
        .outerjoin(bundles, bundles.c.digest == desired.c.digest)
        .where(devices.c.revoked_at_ms.is_(None))
        .order_by(devices.c.name)
    )
    members, wanted = [], {}
    for row in connection.execute(query):
        labels = {**json.loads(row.labels_json), "site": row.site}
        members.append(Member(row.name, row.site, row.online, labels))
        known = row.digest is not None
        bundle = BundleRef(name=row.model, version=row.version, digest=row.digest) if known else None
        wanted[row.name] = bundle
    return members, wanted


def _samples(connection: Connection, rollout: Rollout) -> tuple[tuple[Sample, ...], int]:
    """The counts of the windows after the cursor, and the new cursor.

    The canary arm are moved devices on the candidate, the baseline arm the cohort's other devices on the
    baseline: by what a window says was loaded, not by what was sent. Windows that began before the rollout
    tell nothing about it.
    """
    state, windows = rollout.state, schema.windows.c
    candidate = rollout.spec.candidate.digest
    baseline = state.plan.baseline.digest if state.plan.baseline is not None else None
    newest = newest_window(connection)
    query = (
        select(
            windows.id,
            windows.device,
            windows.digest,
            windows.requests,
            windows.errors,
            windows.labels_seen,
            windows.labels_right,
        )
        .where(
            windows.id > state.cursor,
            windows.id <= newest,
            windows.digest.in_([digest for digest in (candidate, baseline) if digest is not None]),
            windows.start_ms >= state.started_at_ms,
        )
        .order_by(windows.id)
        .limit(WINDOWS_PER_LOOK)
    )
    rows = connection.execute(query).all()
    moved = set(state.moved)
    others = {each.name for each in state.plan.devices} - moved
    samples = []
    for row in rows:
        counts = Counts(
            requests=row.requests,
            errors=row.errors,
            labels=row.labels_seen,
            wrong=row.labels_seen - row.labels_right,
        )
        if row.digest == candidate and row.device in moved:
            samples.append(Sample("canary", row.device, counts))
        elif row.digest == baseline and row.device in others:
            samples.append(Sample("baseline", row.device, counts))
    return tuple(samples), rows[-1].id if len(rows) == WINDOWS_PER_LOOK else newest


def _report(row: Row[Any]) -> Report:
    error = json.loads(row.update_error_json) if row.update_error_json else None
    return Report(
        device=row.name,
        online=row.online and row.revoked_at_ms is None,
        revoked=row.revoked_at_ms is not None,
        generation=row.generation or 0,
        desired_digest=row.desired_digest,
        rejected_generation=row.rejected_generation,
        running_digest=row.running_digest,
        running_requests=row.running_requests,
        phase=row.update_phase,
        error=str(error.get("message", "")) or None if isinstance(error, dict) else None,
    )
