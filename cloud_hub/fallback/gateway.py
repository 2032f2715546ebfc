"""The gateway role: Open Inference Protocol v2 over TLS, for devices (by certificate) and operators (by
bearer token)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cloud_hub.fallback.catalog import Catalog
from cloud_hub.fallback.engines import EnginePool
from cloud_hub.fallback.host import CALLER_NAME, CALLER_REASON, FallbackHost
from cloud_hub.fallback.ledger import REASON_HEADER, Ledger, require_reason
from cloud_hub.fallback.metrics import GatewayMetrics
from cloud_hub.metrics import CONTENT_TYPE
from cloud_hub.settings import HubSettings
from cloud_hub.trust.access import (
    ANONYMOUS,
    Caller,
    DeviceDirectory,
    Services,
    authenticate,
    authenticate_operator,
)
from cloud_hub.trust.tls import PEER, serve_app
from edgeops.errors import EdgeopsError, TransportError, UnauthenticatedError
from edgeops.serving.tensor_routes import error_response, tensor_routes

logger = logging.getLogger(__name__)

# How late the gateway may learn of a publication, an alias or a retirement, and write its sums.
REFRESH_INTERVAL_S = 1.0
_CALLER = "edgeops.caller"
_REASON_HEADER = REASON_HEADER.lower().encode()


async def serve(settings: HubSettings, ready: Callable[[], None]) -> None:
    """Runs the role until cancelled; calls `ready` once connections are accepted.

    The hub must have been prepared (`cloud_hub.processes.prepare.prepare`). Raises `ConfigError` when the
    port is taken.
    """
    services = Services.open(settings)
    try:
        gateway = Gateway(services)
        async with gateway.running():
            await serve_app(
                gateway.app,
                host=settings.gateway_host,
                port=settings.gateway_port,
                tls=services.authority.files.server,
                on_ready=ready,
                setting="gateway_port",
            )
    finally:
        services.close()


class Gateway:
    """The gateway's parts, and `app`, which answers while `running` is entered.

    `/v2/…` needs a device's certificate or the operator's token, `/metrics` the token; `/healthz` is open.
    """

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._catalog = Catalog(services.engine)
        self._ledger = Ledger(services.engine)
        self._engines = EnginePool(
            settings.state_dir / "engines",
            services.blobs,
            threads=settings.fallback_threads,
            memory_bytes=settings.fallback_memory_bytes,
            size=settings.fallback_engines,
            queue=settings.fallback_queue,
            on_load=lambda outcome: self._metrics.loaded(outcome),
        )
        self._metrics = GatewayMetrics(
            engines=lambda: len(self._engines), dropped=lambda: self._ledger.dropped
        )
        self.host = FallbackHost(self._catalog, self._engines, self._ledger, self._metrics)
        routes = [
            *tensor_routes(self.host, request_size_bytes=settings.request_size_bytes, caller=_caller),
            Route("/healthz", _healthz),
            Route("/metrics", self._read_metrics),
        ]
        self.app: ASGIApp = _Gate(Starlette(routes=routes), services, self._metrics)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reads the registry, then keeps up with it and writes the sums; at the end ends the engines.

        Raises SQLAlchemy's error when the database cannot be read at first.
        """
        await asyncio.to_thread(self._catalog.refresh)
        known = {served.digest for each in self._catalog.versions().values() for served in each}
        await asyncio.to_thread(self._engines.sweep, known)
        loops = [
            asyncio.create_task(_every(REFRESH_INTERVAL_S, self._catalog.refresh)),
            asyncio.create_task(_every(REFRESH_INTERVAL_S, self._ledger.flush)),
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._engines.close()
            await asyncio.to_thread(_once, self._ledger.flush)

    async def _read_metrics(self, request: Request) -> Response:
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)


class _Gate:
    """Lets nobody through who has not shown who they are; puts the `Caller` into the scope's extensions."""

    def __init__(self, app: ASGIApp, services: Services, metrics: GatewayMetrics) -> None:
        self._app = app
        self._services = services
        self._metrics = metrics
        self._directory = DeviceDirectory(services.engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            try:
                caller = await self._authenticate(scope)
            except EdgeopsError as error:
                self._metrics.rejected(error.kind)
                await error_response(error)(scope, receive, send)
                return
            scope["extensions"] = {**(scope.get("extensions") or {}), _CALLER: caller}
        await self._app(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> Caller:
        if scope["path"] == "/metrics":
            return authenticate_operator(scope, self._services)
        peer = (scope.get("extensions") or {}).get(PEER)
        try:
            if peer is None or self._directory.fresh(peer["device"], peer["serial"]):
                caller = authenticate(scope, self._services, self._directory)
            else:
                caller = await asyncio.to_thread(authenticate, scope, self._services, self._directory)
        except SQLAlchemyError as error:
            logger.exception("The database cannot say who %s is.", peer)
            raise TransportError("The hub's database does not answer.", remedy="Try again later.") from error
        if caller == ANONYMOUS:
            raise UnauthenticatedError(
                "This needs a device's certificate or the operator's token.",
                remedy="Enrol the device with edgeops agent enroll, or send Authorization: Bearer TOKEN.",
            )
        return caller


def _caller(scope: Scope) -> Mapping[str, Any]:
    caller: Caller = scope["extensions"][_CALLER]
    reason = next((value for name, value in scope["headers"] if name == _REASON_HEADER), None)
    text = None if reason is None else reason.decode("latin-1")
    return {CALLER_NAME: caller.name, CALLER_REASON: require_reason(text)}


async def _healthz(request: Request) -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")


async def _every(interval_s: float, work: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(_once, work)


def _once(work: Callable[[], object]) -> None:
    try:
        work()
    except SQLAlchemyError:
        # What is in memory stays in force, and the next turn tries again.
        logger.exception("The gateway cannot reach the hub's database.")
