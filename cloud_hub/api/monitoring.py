"""Operators: drift scores and alerts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from cloud_hub.api.fields import Answer
from cloud_hub.control import monitor_loop
from cloud_hub.control.alert_store import alerts
from cloud_hub.store.database import reading
from cloud_hub.trust.access import Services, operator

router = APIRouter(prefix="/api/v1", tags=["monitoring"])


class DriftScore(Answer):
    """One feature of one bundle at one site, judged over the last span of windows (`count` values).

    `drifted`: KS or PSI reached its threshold. The thresholds hold the false discovery rate over everything
    that was judged at `at_ms`, at these counts (docs/statistics.md).
    """

    at_ms: int
    model: str
    digest: str
    site: str
    feature: str
    count: int
    ks: float
    ks_threshold: float
    psi: float
    psi_threshold: float
    drifted: bool


class Drift(Answer):
    """The scores of the last look that judged anything. `at_ms` says when that was."""

    at_ms: int | None
    scores: list[DriftScore]


class Alert(Answer):
    """An alert. `updated_at_ms`: when its condition was last found true; `resolved_at_ms` None: open."""

    id: int
    key: str
    rule: str
    severity: str
    model: str | None
    digest: str | None
    site: str | None
    device: str | None
    feature: str | None
    message: str
    value: float | None
    threshold: float | None
    opened_at_ms: int
    updated_at_ms: int
    resolved_at_ms: int | None


class Alerts(Answer):
    """Alerts, the newest first."""

    alerts: list[Alert]


@router.get("/drift", dependencies=[Depends(operator)])
def read_drift(request: Request) -> Drift:
    """How far each feature's distribution lies from the training data, now."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        found = monitor_loop.latest_scores(connection)
    scores = [DriftScore.model_validate(each) for each in found]
    return Drift(at_ms=scores[0].at_ms if scores else None, scores=scores)


@router.get("/alerts", dependencies=[Depends(operator)])
def read_alerts(
    request: Request,
    resolved: Annotated[bool, Query(description="Resolved ones too.")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Alerts:
    """Alerts: the open ones, or all."""
    services: Services = request.app.state.services
    with reading(services.engine) as connection:
        found = alerts(connection, open_only=not resolved, limit=limit)
    return Alerts(alerts=[Alert.model_validate(each) for each in found])
