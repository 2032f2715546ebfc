"""Who may see the dashboard: whoever has a session. Pages send others to the sign-in page."""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_hub.trust.access import Services
from cloud_hub.trust.login import session_of

logger = logging.getLogger(__name__)

SOCKET = "/_nicegui_ws/"
# Not among them: /_nicegui/, whose scripts and styles tell nothing of this hub.
_PAGES = ("/", "/drift", "/alerts")
_BELOW = ("/rollouts", "/devices/", SOCKET)
RETRY_AFTER_S = 5


class Gate:
    """ASGI middleware: lets the API's own paths pass (they check for themselves) and guards the rest."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif not _guarded(scope["path"]):
            await self._pass(scope, receive, send)
        else:
            await self._check(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            actor = await run_in_threadpool(session_of, scope, self._services)
        except SQLAlchemyError:
            logger.exception("The dashboard could not look up a session.")
            if scope["type"] == "websocket":
                await send(
                    {"type": "websocket.close", "code": 1011, "reason": "The database does not answer."}
                )
            else:
                headers = {"Retry-After": str(RETRY_AFTER_S)}
                await HTMLResponse(_UNAVAILABLE, status_code=503, headers=headers)(scope, receive, send)
            return
        if actor is not None:
            await self._pass(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Sign in first."})
        else:
            await RedirectResponse("/login", status_code=303)(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = False

        async def receive_and_note() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        try:
            await self._app(scope, receive_and_note, send)
        except RuntimeError as error:
            # Starlette's BaseHTTPMiddleware, which NiceGUI uses, says so when a browser leaves before it was
            # answered. That is no error of the hub.
            if not (gone and str(error) == "No response returned."):
                raise


def _guarded(path: str) -> bool:
    return path in _PAGES or path.startswith(_BELOW)


_UNAVAILABLE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{RETRY_AFTER_S}">
<title>Not available · edgeops</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center;
  background: #f4f5f7; color: #1c2430 }}
main {{ width: min(30rem, 90vw); padding: 2rem; background: #fff; border: 1px solid #d9dee5; border-radius: 8px }}
h1 {{ font-size: 1.25rem; margin: 0 0 1rem }}
</style></head>
<body><main role="alert"><h1>The hub&rsquo;s database does not answer</h1>
<p>So the dashboard cannot tell who you are. The devices go on serving what they have.</p>
<p>This page tries again every {RETRY_AFTER_S} seconds; the hub&rsquo;s log says why.</p></main></body></html>
"""
