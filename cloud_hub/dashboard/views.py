"""The pages' addresses, and what each reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fastapi import FastAPI
from nicegui import ui
from sqlalchemy import Connection

from cloud_hub import monitor_loop, registry, rollouts
from cloud_hub.access import OPERATOR, Services
from cloud_hub.alert_store import Alert, alerts
from cloud_hub.api.monitoring import DriftScore
from cloud_hub.api.rollout_views import RolloutDetail, RolloutSummary, detail, summary
from cloud_hub.dashboard.alerts_page import alerts_page
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.drift_page import DriftView, drift_page
from cloud_hub.dashboard.fleet_data import load_fleet
from cloud_hub.dashboard.fleet_page import fleet_page
from cloud_hub.dashboard.rollout_page import rollout_page
from cloud_hub.dashboard.rollouts_page import rollouts_page
from cloud_hub.store.database import reading, writing
from edgeops.clock import now_ms
from edgeops.errors import NotFoundError

_MAX_AGE_S = 0.5
_MAX_ROLLOUTS = 100
_MAX_ALERTS = 200


def register(app: FastAPI, services: Services) -> None:
    """Adds the pages to `app`."""
    engine = services.engine
    fleet = Cached(lambda: load_fleet(engine, now_ms()), max_age_s=_MAX_AGE_S)
    listed = Cached(lambda: _rollouts(services), max_age_s=_MAX_AGE_S)
    drift = Cached(lambda: _drift(services), max_age_s=_MAX_AGE_S)
    known_alerts = Cached(lambda: _alerts(services), max_age_s=_MAX_AGE_S)
    details: dict[str, Cached[RolloutDetail]] = {}

    ui.page("/")(lambda: fleet_page(fleet))
    ui.page("/rollouts")(lambda: rollouts_page(listed))
    ui.page("/drift")(lambda: drift_page(drift))
    ui.page("/alerts")(lambda: alerts_page(known_alerts))

    @ui.page("/rollouts/{rollout_id}")
    def one(rollout_id: str) -> None:
        if rollout_id not in details:
            with reading(engine) as connection:
                rollouts.load(connection, rollout_id)  # NotFoundError before anything is kept
            details[rollout_id] = Cached(partial(_rollout, services, rollout_id), max_age_s=_MAX_AGE_S)
        rollout_page(rollout_id, details[rollout_id], partial(_act, services, rollout_id))

    # dark=None follows the system's setting. The welcome message would go to the role's log at each start.
    ui.run_with(app, title="edgeops", dark=None, show_welcome_message=False, tailwind=False)


def _rollouts(services: Services) -> Sequence[RolloutSummary]:
    with reading(services.engine) as connection:
        return [summary(each) for each in rollouts.rollouts(connection, limit=_MAX_ROLLOUTS)]


def _rollout(services: Services, rollout_id: str) -> RolloutDetail:
    with reading(services.engine) as connection:
        return detail(connection, rollouts.load(connection, rollout_id))


def _alerts(services: Services) -> Sequence[Alert]:
    with reading(services.engine) as connection:
        return alerts(connection, open_only=False, limit=_MAX_ALERTS)


def _drift(services: Services) -> DriftView:
    with reading(services.engine) as connection:
        found = monitor_loop.latest_scores(connection)
        labels = {each.digest: f"{each.name} {each.version}" for each in registry.bundles(connection)}
    scores = [DriftScore.model_validate(each) for each in found]
    return DriftView(scores[0].at_ms if scores else None, scores, labels)


def _act(services: Services, rollout_id: str, verb: str) -> None:
    acts: dict[str, Callable[[Connection], object]] = {
        "approve": lambda c: rollouts.approve(c, services.desired_key, rollout_id, OPERATOR, now_ms()),
        "promote": lambda c: rollouts.promote(c, services.desired_key, rollout_id, OPERATOR, now_ms()),
        "resume": lambda c: rollouts.resume(c, services.desired_key, rollout_id, OPERATOR, now_ms()),
        "pause": lambda c: rollouts.pause(c, services.desired_key, rollout_id, OPERATOR, "", now_ms()),
        "abort": lambda c: rollouts.abort(c, services.desired_key, rollout_id, OPERATOR, "", now_ms()),
    }
    if verb not in acts:
        raise NotFoundError(f"A rollout knows no verb {verb!r}.", subject=verb)
    with writing(services.engine) as connection:
        acts[verb](connection)
