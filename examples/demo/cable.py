"""A network cable that can be pulled: a TCP forwarder between one device and the hub.

Cutting it closes what is open and refuses what is new, as a dead uplink does once timeouts pass. The
device speaks TLS through it, so nothing here can read or change what goes by.
"""

from __future__ import annotations

import asyncio
import contextlib

_CHUNK_BYTES = 64 << 10


class Cable:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target_port` while it is plugged in."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._plugged = True
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def lay(self) -> None:
        """Starts listening on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Breaks every connection and takes no new one."""
        self._plugged = False
        for writer in list(self._open):
            writer.transport.abort()

    async def mend(self) -> None:
        """Takes connections again."""
        self._plugged = True

    async def remove(self) -> None:
        """Ends for good."""
        await self.cut()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._plugged:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(upstream_writer)
        try:
            await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))
        finally:
            for end in (writer, upstream_writer):
                self._open.discard(end)
                end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A cut connection surfaces here as an error on either side; the other side learns of it by the close.
    with contextlib.suppress(ConnectionError, OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError, OSError, RuntimeError):
        writer.close()
