"""Who may see the dashboard: whoever has a session. Pages send others to the sign-in page."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cloud_hub.access import Services
from cloud_hub.login import session_of

SOCKET = "/_nicegui_ws/"
# The scripts and styles of NiceGUI itself tell nothing of this hub.
ASSETS = "/_nicegui/"


class Gate:
    """ASGI middleware: lets the API's own paths pass (they check for themselves) and guards the rest."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self._guarded(scope["path"]):
            await self._app(scope, receive, send)
            return
        if await run_in_threadpool(session_of, scope, self._services) is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Sign in first."})
        else:
            await RedirectResponse("/login", status_code=303)(scope, receive, send)

    @staticmethod
    def _guarded(path: str) -> bool:
        return path in ("/", "/drift", "/alerts") or path.startswith(("/rollouts", "/devices/", SOCKET))
