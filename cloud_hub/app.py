"""The api role: the operators' application and the devices', in one process, each on its own listener."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable

from fastapi import FastAPI, Response
from sqlalchemy import select

from cloud_hub import metrics
from cloud_hub.api import audit, device_side, devices, monitoring, registry, rollouts, tokens
from cloud_hub.api.common import close_api, guard, new_app
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import reading
from cloud_hub.trust import login
from cloud_hub.trust.access import Services
from cloud_hub.trust.tls import serve_app

logger = logging.getLogger(__name__)


def create_api_app(services: Services, *, dashboard: bool = True) -> FastAPI:
    """The operators' application: `/api/v1/…`, health, metrics, sign-in, and the dashboard at `/`."""
    app = new_app(
        services,
        title="edgeops hub: operators",
        description="Registry, devices, rollouts and monitoring. Needs the operator's bearer token.",
    )
    for part in (registry, devices, rollouts, monitoring, tokens, audit):
        app.include_router(part.router)
    app.include_router(login.router)
    _add_health(app, services)
    close_api(app, "/api/")
    if dashboard:
        _mount_dashboard(app, services)
    guard(app, services, side="operators")
    return app


def create_device_app(services: Services) -> FastAPI:
    """The devices' application: `/device/v1/…`, behind mutual TLS."""
    app = new_app(
        services,
        title="edgeops hub: devices",
        description="Enrolment by token; renewal and downloads by client certificate (mutual TLS).",
    )
    app.include_router(device_side.router)
    guard(app, services, side="devices")
    return app


async def serve(settings: HubSettings, ready: Callable[[], None]) -> None:
    """Runs both listeners until cancelled; `ready` is called once, when both accept connections.

    The hub must have been prepared (`cloud_hub.processes.prepare.prepare`). Raises `ConfigError` when a port
    is taken.
    """
    services = Services.open(settings)
    waiting = 2

    def one_ready() -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            ready()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                serve_app(
                    create_api_app(services),
                    host=settings.api_host,
                    port=settings.api_port,
                    tls=None,
                    on_ready=one_ready,
                    setting="api_port",
                )
            )
            group.create_task(
                serve_app(
                    create_device_app(services),
                    host=settings.device_host,
                    port=settings.device_port,
                    tls=services.authority.files.server,
                    on_ready=one_ready,
                    setting="device_port",
                )
            )
    except BaseExceptionGroup as errors:
        # The first is the cause; the other listener was only cancelled with it.
        raise errors.exceptions[0] from None
    finally:
        services.close()


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process works."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    def readyz() -> dict[str, str]:
        """The database answers, so requests can be served."""
        with reading(services.engine) as connection:
            connection.execute(select(schema.bundles.c.digest).limit(1)).all()
        return {"status": "ready"}

    text = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/metrics", tags=["health"], response_class=Response, responses=text)  # type: ignore[arg-type]
    def read_metrics() -> Response:
        """Prometheus' text format. Counts only, so it is open to whoever reaches this listener."""
        return Response(services.metrics.exposition(), media_type=metrics.CONTENT_TYPE)


def _mount_dashboard(app: FastAPI, services: Services) -> None:
    # A hub without a screen may leave the dashboard's packages out.
    if importlib.util.find_spec("nicegui") is None:
        logger.info("The dashboard is off: the Python package nicegui is not installed.")
        return
    from cloud_hub.dashboard import mount_dashboard

    mount_dashboard(app, services)
