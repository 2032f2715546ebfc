"""HTTP listeners of the hub: uvicorn, with mutual TLS, and the peer's certificate in the ASGI scope.

A client certificate is optional at the handshake (enrolment has none yet), but one that is shown must
come from the hub's own authority, or the handshake fails. Whether a certificate has been revoked is
looked up per request (`cloud_hub.trust.access`), so that a revocation takes hold on open connections too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgeops.listening import listen, listen_error

# Key in `scope["extensions"]`: {"device": the certificate's common name, "serial": lower-case hex}.
PEER = "edgeops.peer"
GRACE_S = 5

AsgiApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one TLS end: its certificate, its private key, and the authority that peers must have."""

    certificate: Path
    key: Path
    ca: Path


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or newer; a client certificate is optional, and must be the authority's if shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def normal_serial(serial: int | str) -> str:
    """A certificate's serial number as it is stored and compared: lower-case hex, no leading zeros."""
    return format(serial if isinstance(serial, int) else int(serial, 16), "x")


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket's address, taken. Raises `ConfigError` naming the port and the setting."""
    try:
        return listen(host, port)
    except OSError as error:
        raise listen_error(error, host, port, setting, "EDGEOPS_HUB_") from error


class _PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol; it adds the verified peer certificate to each request's scope."""

    _peer: dict[object, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # None when no certificate was shown; never one that was not verified.
        self._peer = _peer_of(transport.get_extra_info("peercert"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._peer is not None:
            self.scope["extensions"] = {PEER: self._peer}


def _peer_of(certificate: dict[str, Any] | None) -> dict[object, object] | None:
    if not certificate:
        return None
    names = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
    return {"device": names[0] if names else "", "serial": normal_serial(certificate["serialNumber"])}


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: several run in one process and end by cancellation."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()


async def serve_app(
    app: AsgiApp,
    *,
    host: str,
    port: int,
    tls: TlsFiles | None,
    on_ready: Callable[[], None],
    setting: str = "port",
) -> None:
    """Serves `app` until cancelled; then open requests get `GRACE_S` seconds to finish.

    `on_ready` is called once, when connections are accepted. `setting` is the name of the setting that
    `port` came from. Raises `ConfigError` when the port is taken, before anything else happens.
    """
    listener = bind(host, port, setting)
    config = uvicorn.Config(
        app,
        http=_PeerProtocol,
        lifespan="on",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        # The peer's address is the socket's: no header from outside may change it.
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_context_factory=None if tls is None else lambda _config, _default: server_context(tls),
    )
    server = _Server(config, on_ready)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    finally:
        listener.close()
