"""What both HTTP applications of the hub have in common: errors, limits, headers, measurement."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from cloud_hub.api.fields import ErrorBody
from cloud_hub.bundles.blobs import StorageFullError, TooLargeError
from cloud_hub.trust.access import Services
from edgeops import __version__
from edgeops.errors import (
    BadRequestError,
    EdgeopsError,
    NotFoundError,
    RateLimitedError,
    TransportError,
    UnauthenticatedError,
)

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# The dashboard's framework needs inline scripts and eval; nothing may come from elsewhere all the same.
_PAGE_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    b" img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none';"
    b" base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'"


def new_app(services: Services, *, title: str, description: str) -> FastAPI:
    """An application whose errors are JSON. `services` becomes `app.state.services`."""
    app = FastAPI(
        title=title,
        description=description,
        version=__version__,
        # Their pages load scripts from another site; the document itself stays at /openapi.json.
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody, "description": "Refused; `error` says why and what to do."}},
    )
    app.state.services = services
    app.add_exception_handler(EdgeopsError, _edgeops_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(Exception, _unexpected_error)
    return app


def guard(app: FastAPI, services: Services, *, side: str) -> None:
    """Limits all requests, and measures and hardens all answers. Call it last: it must be outermost.

    `side` (`operators` or `devices`) tells the two applications apart in metrics.
    """
    app.add_middleware(_Guard, services=services, side=side)


def close_api(app: FastAPI, prefix: str) -> None:
    """Answers what no route below `prefix` takes as an API does, before what is mounted at `/` sees it.

    Call it after all routes. A path that exists with another method is 405 with `Allow` (RFC 9110, 15.5.6).
    """

    known = list(app.routes)

    async def nothing_here(request: Request) -> JSONResponse:
        scope = dict(request.scope)
        allowed = [
            method
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH")
            if any(route.matches(scope | {"method": method})[0] is Match.FULL for route in known)
        ]
        if allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        raise HTTPException(404)

    # A route without a list of methods takes them all.
    app.router.routes.append(Route(f"{prefix}{{rest:path}}", _Any(nothing_here), include_in_schema=False))


class _Any:
    """An endpoint for every method: Starlette gives only functions `GET` by default."""

    def __init__(self, answer: Callable[[Request], Awaitable[JSONResponse]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)


def error_response(error: EdgeopsError) -> JSONResponse:
    """An error as an answer: its class's status, its content as JSON."""
    headers = {}
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(error.details.get("retry_after_s", 60))
    return JSONResponse({"error": error.to_dict()}, status_code=error.http_status, headers=headers)


async def _edgeops_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EdgeopsError)
    if error.http_status >= 500:
        logger.error("%s", error)
    return error_response(error)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    # The offending value itself is not repeated: it may be a secret.
    return error_response(BadRequestError(f"{where} does not fit: {first['msg']}.", subject=where))


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(NotFoundError("There is nothing at this address."))
    refused = BadRequestError(f"{error.detail}.")
    body = {"error": refused.to_dict()}
    return JSONResponse(body, status_code=error.status_code, headers=dict(error.headers or {}))


async def _database_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OperationalError)
    logger.error("The database did not do what a request needs: %s", error.orig)
    # PostgreSQL's code for a full disk is 53100 (its manual, appendix A).
    codes = getattr(error.orig, "sqlite_errorcode", None), getattr(error.orig, "sqlstate", None)
    if codes[0] == sqlite3.SQLITE_FULL or codes[1] == "53100":
        return error_response(
            StorageFullError(
                "The disk that holds the hub's database is full; nothing was changed.",
                remedy="Free some space there, then try again.",
            )
        )
    return error_response(
        TransportError(
            "The hub's database does not answer; nothing was changed.",
            remedy="Try again; if that does not help, the hub's log says why.",
        )
    )


async def _unexpected_error(_request: Request, _error: Exception) -> JSONResponse:
    # Starlette logs the traceback; the caller learns nothing of the hub's inside.
    unexpected = EdgeopsError("The hub met an unexpected error.", remedy="Its log has the details.")
    return error_response(unexpected)


class _Guard:
    """Outermost: bounds the request's size, adds security headers, and measures the answer."""

    def __init__(self, app: AsgiApp, services: Services, side: str) -> None:
        self._app = app
        self._services = services
        self._side = side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_headers(scope["path"])]
            await send(message)

        try:
            limit_bytes = self._limit_bytes(scope)
            declared = _content_length(scope)
            if declared is not None and declared > limit_bytes:
                await error_response(_too_large(limit_bytes))(scope, receive, send_guarded)
            else:
                await self._app(scope, _limited(receive, limit_bytes), send_guarded)
        finally:
            elapsed_s = time.perf_counter() - started
            self._services.metrics.observe(self._side, scope, status, elapsed_s)

    def _limit_bytes(self, scope: Scope) -> int:
        settings = self._services.settings
        is_upload = scope["method"] == "PUT" and scope["path"].startswith("/api/v1/blobs/")
        return settings.blob_size_bytes if is_upload else settings.request_size_bytes


def _limited(receive: Receive, limit_bytes: int) -> Receive:
    taken = 0

    async def receive_limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit_bytes:
            raise _too_large(limit_bytes)
        return message

    return receive_limited


def _too_large(limit_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"The request is larger than {limit_bytes} bytes.",
        remedy="Send less, or raise EDGEOPS_HUB_REQUEST_SIZE_BYTES on the hub.",
    )


def _content_length(scope: Scope) -> int | None:
    for key, value in scope["headers"]:
        # uvicorn has refused anything but digits already.
        if key == b"content-length" and value.isdigit():
            return int(value)
    return None


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    data = path.startswith(("/api/", "/device/"))
    policy = (b"content-security-policy", _DATA_POLICY if data else _PAGE_POLICY)
    return [*_HEADERS, policy, (b"cache-control", b"no-store")] if data else [*_HEADERS, policy]
