"""uvicorn on an inherited socket that can leave it without losing a request.

On drain it stops accepting (the socket's queue goes on for whoever else listens on it), tells every client
with `Connection: close` that this connection ends with the answer, and closes a connection that says nothing
only after a while: a client that has one open may be sending on it right now (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

IDLE_GRACE_S: Final = 1.0
_KEEP_ALIVE_S: Final = 75


class _State(ServerState):
    """uvicorn's state of all connections, and an event for the last one's end."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = asyncio.Event()


class _Protocol(HttpToolsProtocol):
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.connections and isinstance(self.server_state, _State):
            self.server_state.gone.set()


class DrainingServer:
    """Serves `app` on `listeners` from `begin` on, until it is told to drain; `finish` then drains it,
    for at most `drain_timeout_s`."""

    def __init__(self, app: ASGIApp, *, drain_timeout_s: float) -> None:
        self._config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._config.load()
        self._server = uvicorn.Server(self._config)
        self._state = self._server.server_state = _State()
        self._server.lifespan = self._config.lifespan_class(self._config)
        self._drain_timeout_s = drain_timeout_s
        self._drain = asyncio.Event()
        self._listeners: list[socket.socket] = []

    async def begin(self, listeners: list[socket.socket]) -> None:
        """Starts to accept on sockets that are bound and listen already."""
        self._listeners = listeners
        await self._server.startup(sockets=listeners)

    def drain(self) -> None:
        """Asks it to drain. Safe to call again."""
        self._drain.set()

    async def drain_asked(self) -> None:
        """Returns when `drain` has been called."""
        await self._drain.wait()

    async def finish(self) -> None:
        """Drains: returns when no connection is open any more, or the time is over."""
        for server in self._server.servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        # Requests that begin from now on, and those that are being answered.
        self._state.default_headers = [(b"connection", b"close")]
        connections: set[Any] = self._state.connections
        for connection in connections:
            if connection.cycle is not None and not connection.cycle.response_complete:
                connection.cycle.keep_alive = False
        start = asyncio.get_running_loop().time()
        await self._until_gone(start + min(IDLE_GRACE_S, self._drain_timeout_s / 2))
        for connection in list(connections):
            connection.shutdown()
        await self._until_gone(start + self._drain_timeout_s)
        for connection in list(connections):
            connection.transport.abort()

    async def _until_gone(self, deadline: float) -> None:
        self._state.gone.clear()
        if self._state.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._state.gone.wait()
