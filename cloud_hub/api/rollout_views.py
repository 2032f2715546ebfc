"""Rollouts as the API shows them."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from cloud_hub.api.fields import Answer, BundleName
from cloud_hub.control import rollouts
from cloud_hub.control.rollouts import StoredRollout
from edgeops.messages import BundleRef
from fleet.progress import Progress
from fleet.rollout_types import PHASES

LOG_ENTRIES = 200


class DeviceProgress(Answer):
    """A device of the cohort: whether it is a canary, was moved, and how far it is."""

    name: str
    site: str
    canary: bool
    moved: bool
    status: str
    detail: str
    previous: BundleName | None


class RolloutSummary(Answer):
    """A rollout at a glance. `meaning` explains the phase, `reason` why it is in it."""

    id: str
    phase: str
    meaning: str
    reason: str
    strategy: str
    candidate: BundleName
    baseline: BundleName | None
    canaries: list[str]
    devices_total: int
    devices_moved: int
    devices_updated: int
    devices_returned: int
    devices_failed: int
    created_at_ms: int
    created_by: str
    updated_at_ms: int
    started_at_ms: int | None
    deadline_at_ms: int | None


class LogEntry(Answer):
    """What happened: a `transition`, a `look` at the evidence (its verdict), or a `device`'s progress."""

    id: int
    at_ms: int
    kind: str
    detail: dict[str, Any]


class RolloutDetail(RolloutSummary):
    """A rollout in full. `verdict` holds the decision, reasons, what is missing, and both tests' figures.
    `log`, the newest first: the newest 200 transitions and device entries, and at most 200 looks, thinned out
    evenly over the whole rollout."""

    spec: dict[str, Any]
    devices: list[DeviceProgress]
    verdict: dict[str, Any] | None
    log: list[LogEntry]


def summary(stored: StoredRollout) -> RolloutSummary:
    """A rollout at a glance."""
    return RolloutSummary(**_summary(stored))


def detail(connection: Connection, stored: StoredRollout) -> RolloutDetail:
    """A rollout in full, with the newest entries of its log."""
    rollout = stored.rollout
    state = rollout.state
    moved, canaries = set(state.moved), set(state.plan.canaries)
    devices = []
    for each in state.plan.devices:
        progress = state.progress.get(each.name, Progress(detail="Not moved."))
        devices.append(
            DeviceProgress(
                name=each.name,
                site=each.site,
                canary=each.name in canaries,
                moved=each.name in moved,
                status=progress.status if each.name in moved else "untouched",
                detail=progress.detail,
                previous=_bundle(each.previous),
            )
        )
    entries = rollouts.log(connection, rollout.id, limit=LOG_ENTRIES)
    return RolloutDetail(
        **_summary(stored),
        spec=msgspec.to_builtins(rollout.spec),
        devices=devices,
        verdict=None if state.verdict is None else msgspec.to_builtins(state.verdict),
        log=[LogEntry.model_validate(entry) for entry in entries],
    )


def _summary(stored: StoredRollout) -> dict[str, Any]:
    rollout = stored.rollout
    state, spec = rollout.state, rollout.spec
    statuses = [each.status for each in state.progress.values()]
    return {
        "id": rollout.id,
        "phase": state.phase,
        "meaning": PHASES[state.phase],
        "reason": state.reason,
        "strategy": spec.strategy,
        "candidate": _bundle(spec.candidate),
        "baseline": _bundle(state.plan.baseline),
        "canaries": list(state.plan.canaries),
        "devices_total": len(state.plan.devices),
        "devices_moved": len(state.moved),
        "devices_updated": statuses.count("updated"),
        "devices_returned": statuses.count("returned"),
        "devices_failed": statuses.count("failed"),
        "created_at_ms": stored.created_at_ms,
        "created_by": stored.created_by,
        "updated_at_ms": stored.updated_at_ms,
        "started_at_ms": state.started_at_ms or None,
        "deadline_at_ms": state.deadline_at_ms,
    }


def _bundle(ref: BundleRef | None) -> BundleName | None:
    return None if ref is None else BundleName.model_validate(ref)
