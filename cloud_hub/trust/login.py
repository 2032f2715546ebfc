"""Sessions of the dashboard: a one-time code or the operator's token opens one, a cookie carries it.

The cookie is HttpOnly and SameSite=Strict, and the operators' API does not look at it, so no other site can
act in a session. Codes and sessions are stored as hashes; both end by themselves.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import Engine, delete, insert, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import cookie_parser

from cloud_hub.store import schema
from cloud_hub.store.database import reading, writing
from cloud_hub.trust.access import OPERATOR, Services, source_of
from edgeops.clock import now_ms
from edgeops.errors import EdgeopsError, RateLimitedError, UnauthenticatedError

COOKIE = "edgeops_session"
CODE_TTL_MS = 10 * 60 * 1000
SESSION_TTL_MS = 12 * 3600 * 1000
_MAX_FORM_BYTES = 4096

router = APIRouter(include_in_schema=False)


def issue_code(engine: Engine, actor: str, at_ms: int) -> tuple[str, int]:
    """A code that opens one session within ten minutes, and when it ends."""
    code = secrets.token_urlsafe(24)
    expires_at_ms = at_ms + CODE_TTL_MS
    with writing(engine) as connection:
        connection.execute(delete(schema.login_codes).where(schema.login_codes.c.expires_at_ms <= at_ms))
        connection.execute(
            insert(schema.login_codes).values(
                code_sha256=_hash(code), actor=actor, expires_at_ms=expires_at_ms
            )
        )
    return code, expires_at_ms


def open_session(engine: Engine, code: str, at_ms: int) -> str:
    """Uses a code up; returns the new session's cookie value. Raises `UnauthenticatedError`."""
    codes = schema.login_codes
    with writing(engine) as connection:
        used = connection.execute(
            delete(codes)
            .where(codes.c.code_sha256 == _hash(code), codes.c.expires_at_ms > at_ms)
            .returning(codes.c.actor)
        ).one_or_none()
    if used is None:
        raise UnauthenticatedError(
            "This code is wrong, used up or expired.", remedy="Get a new one with edgeops hub login."
        )
    return start_session(engine, used.actor, at_ms)


def start_session(engine: Engine, actor: str, at_ms: int) -> str:
    """A new session of someone who proved to be `actor`; returns its cookie value."""
    value = secrets.token_urlsafe(32)
    sessions = schema.login_sessions
    with writing(engine) as connection:
        connection.execute(delete(sessions).where(sessions.c.expires_at_ms <= at_ms))
        connection.execute(
            insert(sessions).values(
                session_sha256=_hash(value),
                actor=actor,
                created_at_ms=at_ms,
                expires_at_ms=at_ms + SESSION_TTL_MS,
            )
        )
    return value


def session_of(scope: Mapping[str, Any], services: Services) -> str | None:
    """The actor whose session an ASGI request or WebSocket belongs to, or None. Reads the database."""
    value = _cookie(scope)
    if value is None:
        return None
    sessions = schema.login_sessions.c
    query = select(sessions.actor).where(
        sessions.session_sha256 == _hash(value), sessions.expires_at_ms > now_ms()
    )
    with reading(services.engine) as connection:
        actor: str | None = connection.execute(query).scalar_one_or_none()
    return actor


@router.get("/login")
def login_page(request: Request, code: str | None = None) -> Response:
    """With a code: opens a session and goes to the dashboard. Without: asks for the operator's token."""
    services: Services = request.app.state.services
    if code is None:
        return _page("")
    try:
        services.wrong_tokens.attempt(source_of(request.scope))
        value = open_session(services.engine, code[:128], now_ms())
    except (UnauthenticatedError, RateLimitedError) as error:
        return _page(str(error), error)
    return _enter(request, value)


@router.post("/login")
async def login_by_token(request: Request) -> Response:
    """Opens a session for whoever sends the operator's token in the form field `token`."""
    services: Services = request.app.state.services
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            break
    fields = parse_qs(bytes(body[:_MAX_FORM_BYTES]).decode("latin-1"))
    token = fields.get("token", [""])[0].strip()
    if not hmac.compare_digest(token.encode(), services.operator_token.encode()):
        try:
            services.wrong_tokens.attempt(source_of(request.scope))
        except RateLimitedError as error:
            return _page(str(error), error)
        wrong = UnauthenticatedError("This is not the operator's token.")
        return _page(str(wrong), wrong)
    value = await run_in_threadpool(start_session, services.engine, OPERATOR, now_ms())
    return _enter(request, value)


@router.post("/logout")
def logout(request: Request) -> Response:
    """Ends the session that the cookie carries."""
    services: Services = request.app.state.services
    value = _cookie(request.scope)
    if value is not None:
        sessions = schema.login_sessions
        with writing(services.engine) as connection:
            connection.execute(delete(sessions).where(sessions.c.session_sha256 == _hash(value)))
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _enter(request: Request, value: str) -> Response:
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        COOKIE,
        value,
        max_age=SESSION_TTL_MS // 1000,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def _cookie(scope: Mapping[str, Any]) -> str | None:
    for key, value in scope["headers"]:
        if key == b"cookie":
            found = cookie_parser(value.decode("latin-1")).get(COOKIE)
            if found:
                return found
    return None


def _page(message: str, error: EdgeopsError | None = None) -> HTMLResponse:
    status = 200 if error is None else error.http_status
    note = f'<p role="alert">{html.escape(message)}</p>' if message else ""
    return HTMLResponse(_PAGE.replace("<!-- note -->", note), status_code=status)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · edgeops</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center;
  background: #f4f5f7; color: #1c2430 }
main { width: min(24rem, 90vw); padding: 2rem; background: #fff; border: 1px solid #d9dee5;
  border-radius: 8px }
h1 { font-size: 1.25rem; margin: 0 0 1rem }
label { display: block; font-weight: 600 }
input { width: 100%; box-sizing: border-box; font: inherit; padding: .5rem; margin: .25rem 0 1rem;
  border: 1px solid #8a94a3; border-radius: 4px }
button { font: inherit; font-weight: 600; padding: .5rem 1.25rem; border: 0; border-radius: 4px;
  background: #1f5fbf; color: #fff; cursor: pointer }
p { color: #556070 } p[role=alert] { color: #a3261c } code { font-size: .9em }
</style></head>
<body><main><h1>edgeops</h1><!-- note -->
<form method="post" action="/login">
<label for="token">Operator's token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Sign in</button></form>
<p>Or run <code>edgeops hub login</code> on the hub's machine:
it prints an address that signs you in once.</p>
</main></body></html>
"""
