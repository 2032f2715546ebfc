"""Operators: writing down rollouts, approving them, watching them, and stepping in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, StringConstraints

from cloud_hub.api.fields import Answer, Body, Name, Version
from cloud_hub.api.rollout_views import RolloutDetail, RolloutSummary, detail, summary
from cloud_hub.bundles import registry
from cloud_hub.control import rollouts
from cloud_hub.store.database import reading, writing
from cloud_hub.trust.access import Services, operator
from edgeops.clock import now_ms
from fleet.rollout_types import parse_spec

router = APIRouter(prefix="/api/v1", tags=["rollouts"])
Operator = Annotated[str, Depends(operator)]
RolloutId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Cohort(Body):
    """Devices that bear all `labels` (`site` is one), and those named. Neither: every device."""

    labels: dict[Label, Label] = Field(default={}, max_length=32)
    devices: list[Name] = Field(default=[], max_length=100_000)


class CriteriaBody(Body):
    """When the canary is good or bad enough. What is left out has its default (docs/statistics.md)."""

    alpha: float | None = None
    alpha_promote: float | None = None
    error_margin: float | None = None
    accuracy_margin: float | None = None
    judge_labels: bool = Field(default=True, description="False: the verdict goes by errors alone.")
    min_requests: int | None = None


class RolloutRequest(Body):
    """A rollout to write down. What is left out has its default. `alias` is `prod` for the whole fleet."""

    model: Name
    version: Version
    cohort: Cohort = Cohort()
    strategy: Literal["canary", "all-at-once"] = "canary"
    canary_count: int | None = None
    canary_share: float | None = None
    criteria: CriteriaBody = CriteriaBody()
    require_served: bool | None = None
    max_failures: int | None = None
    offline_after_s: float | None = None
    canary_deadline_s: float | None = None
    rollout_deadline_s: float | None = None
    rollback_deadline_s: float | None = None
    alias: Literal["prod", "staging", "canary", "none"] | None = None


class ReasonRequest(Body):
    """Why, in the operator's words; it is shown beside the rollout and in the audit log."""

    reason: str = Field(default="", max_length=500)


class Rollouts(Answer):
    """The newest rollouts first."""

    rollouts: list[RolloutSummary]


@router.post("/rollouts", status_code=201)
def create_rollout(body: RolloutRequest, request: Request, actor: Operator) -> RolloutDetail:
    """Writes down a rollout as a draft. Nothing moves before it is approved."""
    services: Services = request.app.state.services
    now = now_ms()
    with writing(services.engine) as connection:
        candidate = registry.bundle_of(connection, body.model, body.version).ref
        spec = parse_spec({"candidate": msgspec.to_builtins(candidate), **_spec_fields(body)})
        stored = rollouts.create(connection, spec, actor, now)
        return detail(connection, stored)


@router.get("/rollouts", dependencies=[Depends(operator)])
def list_rollouts(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> Rollouts:
    """The newest rollouts."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        found = rollouts.rollouts(connection, limit=limit)
    return Rollouts(rollouts=[summary(each) for each in found])


@router.get("/rollouts/{rollout_id}", dependencies=[Depends(operator)])
def read_rollout(rollout_id: RolloutId, request: Request) -> RolloutDetail:
    """One rollout: its devices, its verdict and what it waits for, and the newest of its log."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        return detail(connection, rollouts.load(connection, rollout_id))


@router.post("/rollouts/{rollout_id}/approve")
def approve_rollout(rollout_id: RolloutId, request: Request, actor: Operator) -> RolloutDetail:
    """Lets a draft go. Refused while another rollout holds one of its devices."""
    services: Services = request.app.state.services
    with writing(services.engine) as connection:
        stored = rollouts.approve(connection, services.desired_key, rollout_id, actor, now_ms())
        return detail(connection, stored)


@router.post("/rollouts/{rollout_id}/promote")
def promote_rollout(rollout_id: RolloutId, request: Request, actor: Operator) -> RolloutDetail:
    """Promotes a canary whatever its evidence."""
    services: Services = request.app.state.services
    with writing(services.engine) as connection:
        stored = rollouts.promote(connection, services.desired_key, rollout_id, actor, now_ms())
        return detail(connection, stored)


@router.post("/rollouts/{rollout_id}/pause")
def pause_rollout(
    rollout_id: RolloutId, request: Request, actor: Operator, body: ReasonRequest | None = None
) -> RolloutDetail:
    """Holds a rollout: nothing more is assigned until it is resumed or aborted."""
    services: Services = request.app.state.services
    reason = body.reason if body is not None else ""
    with writing(services.engine) as connection:
        stored = rollouts.pause(connection, services.desired_key, rollout_id, actor, reason, now_ms())
        return detail(connection, stored)


@router.post("/rollouts/{rollout_id}/resume")
def resume_rollout(rollout_id: RolloutId, request: Request, actor: Operator) -> RolloutDetail:
    """Lets a held rollout go on, with a new deadline."""
    services: Services = request.app.state.services
    with writing(services.engine) as connection:
        stored = rollouts.resume(connection, services.desired_key, rollout_id, actor, now_ms())
        return detail(connection, stored)


@router.post("/rollouts/{rollout_id}/abort")
def abort_rollout(
    rollout_id: RolloutId, request: Request, actor: Operator, body: ReasonRequest | None = None
) -> RolloutDetail:
    """Ends a rollout: the devices that it moved return to what they ran, the others are not touched."""
    services: Services = request.app.state.services
    reason = body.reason if body is not None else ""
    with writing(services.engine) as connection:
        stored = rollouts.abort(connection, services.desired_key, rollout_id, actor, reason, now_ms())
        return detail(connection, stored)


def _spec_fields(body: RolloutRequest) -> dict[str, Any]:
    """The specification's fields that were given; its own defaults stand for the others."""
    given = body.model_dump(exclude_none=True, exclude={"model", "version", "criteria", "alias"})
    criteria = body.criteria.model_dump(exclude_none=True, exclude={"judge_labels"})
    if not body.criteria.judge_labels:
        criteria["accuracy_margin"] = None
    whole_fleet = not body.cohort.labels and not body.cohort.devices
    alias = body.alias or ("prod" if whole_fleet else "none")
    return {**given, "criteria": criteria, "alias": None if alias == "none" else alias}
