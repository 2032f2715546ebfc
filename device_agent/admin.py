"""The admin endpoint, answered by the control process: `/status`, `/healthz`, `/metrics`. Read only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from device_agent.figures import Parts, registry, status

# The control process is well while it drains its rings; a round takes far less.
STALE_S = 10.0
_GRACE_S = 2


def admin_app(parts: Parts) -> Starlette:
    """The endpoint over these parts. `/healthz` answers 503 when the control process has come to a halt; that
    a device has nothing to serve, or no hub, is no illness."""
    metrics = registry(parts)

    async def get_status(_request: Request) -> Response:
        return JSONResponse(status(parts))

    async def get_health(_request: Request) -> Response:
        stale = time.monotonic() - parts.telemetry.beat_s > STALE_S
        return JSONResponse({"status": "stale" if stale else "ok"}, status_code=503 if stale else 200)

    async def get_metrics(_request: Request) -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/status", get_status),
            Route("/healthz", get_health),
            Route("/metrics", get_metrics),
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the agent has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_admin(app: Starlette, listener: socket.socket) -> None:
    """Serves on a socket that listens, until cancelled."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
