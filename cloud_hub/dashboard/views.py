"""The pages' addresses, and what each reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fastapi import FastAPI, Request
from nicegui import ui
from sqlalchemy import Connection

from cloud_hub.api.monitoring import DriftScore
from cloud_hub.api.rollout_views import RolloutDetail, RolloutSummary, detail, summary
from cloud_hub.broker.cutoff import cut_off
from cloud_hub.bundles import registry
from cloud_hub.control import monitor_loop, rollouts
from cloud_hub.control.alert_store import Alert, alerts
from cloud_hub.dashboard.alerts_page import alerts_page
from cloud_hub.dashboard.cached import Cached, CachedByName
from cloud_hub.dashboard.device_data import load_device
from cloud_hub.dashboard.device_page import device_page
from cloud_hub.dashboard.drift_page import DriftView, drift_page
from cloud_hub.dashboard.fleet_data import load_fleet
from cloud_hub.dashboard.fleet_page import fleet_page
from cloud_hub.dashboard.pulse import load_pulse
from cloud_hub.dashboard.rollout_page import rollout_page
from cloud_hub.dashboard.rollouts_page import rollouts_page
from cloud_hub.dashboard.visit import Visit
from cloud_hub.store.database import reading, writing
from cloud_hub.trust import enrolment
from cloud_hub.trust.access import Services
from edgeops.clock import now_ms
from edgeops.errors import NotFoundError

_MAX_AGE_S = 0.5
_MAX_ROLLOUTS = 100
_MAX_ALERTS = 200


def register(app: FastAPI, services: Services) -> None:
    """Adds the pages to `app`."""
    engine = services.engine
    pulse = Cached(lambda: load_pulse(engine), max_age_s=_MAX_AGE_S)
    fleet = Cached(lambda: load_fleet(engine, now_ms()), max_age_s=_MAX_AGE_S)
    listed = Cached(lambda: _rollouts(services), max_age_s=_MAX_AGE_S)
    drift = Cached(lambda: _drift(services), max_age_s=_MAX_AGE_S)
    known_alerts = Cached(lambda: _alerts(services), max_age_s=_MAX_AGE_S)
    one_rollout = CachedByName(partial(_rollout, services), max_age_s=_MAX_AGE_S)
    one_device = CachedByName(lambda name: load_device(engine, name, now_ms()), max_age_s=_MAX_AGE_S)

    def visit(request: Request) -> Visit:
        return Visit(services, request.scope, pulse)

    @ui.page("/")
    def overview(request: Request) -> None:
        fleet_page(fleet, visit(request))

    @ui.page("/rollouts")
    def all_rollouts(request: Request) -> None:
        rollouts_page(listed, visit(request))

    @ui.page("/drift")
    def drifting(request: Request) -> None:
        drift_page(drift, visit(request))

    @ui.page("/alerts")
    def all_alerts(request: Request) -> None:
        alerts_page(known_alerts, visit(request))

    @ui.page("/rollouts/{rollout_id}")
    def rollout(request: Request, rollout_id: str) -> None:
        visitor = visit(request)
        rollout_page(rollout_id, one_rollout.of(rollout_id), partial(_act, visitor, rollout_id), visitor)

    @ui.page("/devices/{name}")
    def device(request: Request, name: str) -> None:
        visitor = visit(request)
        device_page(name, one_device.of(name), partial(_revoke, visitor, name), visitor)

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


def _act(visit: Visit, rollout_id: str, verb: str, reason: str) -> None:
    services, actor = visit.services, visit.actor()
    acts: dict[str, Callable[[Connection], object]] = {
        "approve": lambda c: rollouts.approve(c, services.desired_key, rollout_id, actor, now_ms()),
        "promote": lambda c: rollouts.promote(c, services.desired_key, rollout_id, actor, now_ms()),
        "resume": lambda c: rollouts.resume(c, services.desired_key, rollout_id, actor, now_ms()),
        "pause": lambda c: rollouts.pause(c, services.desired_key, rollout_id, actor, reason, now_ms()),
        "abort": lambda c: rollouts.abort(c, services.desired_key, rollout_id, actor, reason, now_ms()),
    }
    if verb not in acts:
        raise NotFoundError(f"A rollout knows no verb {verb!r}.", subject=verb)
    with writing(services.engine) as connection:
        acts[verb](connection)


def _revoke(visit: Visit, name: str) -> None:
    services = visit.services
    enrolment.revoke(
        services.engine,
        services.authority,
        device=name,
        actor=visit.actor(),
        now_ms=now_ms(),
        on_revoked=lambda device: cut_off(services.settings, device),
    )
