"""The serving process from start to end: `device_agent.processes.serving_protocol`, its other half.

It never outlives the control process for long: the channel's end makes it drain and exit, the kernel sends
it SIGTERM when its parent dies, and a drain that hangs is ended by SIGALRM, which nothing catches.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from starlette.applications import Starlette

from device_agent.processes.serving_protocol import (
    Drain,
    Drained,
    Failed,
    Message,
    Ready,
    Serve,
    Serving,
    Start,
    decode_line,
    encode_line,
)
from device_agent.serving.draining_server import DrainingServer
from device_agent.serving.fallback_client import Gateway
from device_agent.serving.host import DeviceHost
from device_agent.serving.labels import LabelBook, labels_route
from device_agent.serving.loading import Loaded, load
from edgeops.errors import EdgeopsError
from edgeops.processes import die_with_parent, limit_memory
from edgeops.serving.tensor_routes import tensor_routes

_log = logging.getLogger(__name__)

_HANG_S: Final = 2


def main(channel_fd: int) -> int:
    """Runs the process on its channel and returns its exit status: 0 after draining, 1 when it failed."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    die_with_parent(signal.SIGTERM)
    # Ctrl-C goes to the whole process group; when to stop is the control process's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Memory holds requests; a core file would keep them.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(channel_fd))


class _Channel:
    """JSON lines to and from the control process. Its end, and what is no message, read as `Drain`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def receive(self) -> Message:
        try:
            line = await self._reader.readline()
            return decode_line(line) if line else Drain()
        except ConnectionError:
            return Drain()
        except (ValueError, msgspec.MsgspecError) as error:
            _log.error("The channel does not speak this protocol: %s", error)
            return Drain()

    async def send(self, message: Message) -> None:
        try:
            self._writer.write(encode_line(message))
            await self._writer.drain()
        except ConnectionError:
            _log.info("The control process is gone.")


async def _run(channel_fd: int) -> int:
    channel = _Channel(*await asyncio.open_unix_connection(sock=socket.socket(fileno=channel_fd)))
    start = await channel.receive()
    if not isinstance(start, Start):
        return 1
    try:
        limit_memory(start.memory_bytes)
        loaded, host, app = _prepare(start)
    except EdgeopsError as error:
        await channel.send(Failed(error=error.to_dict()))
        return 1
    except Exception as error:  # noqa: BLE001 (the control process must be told why, whatever it is)
        _log.exception("Loading failed.")
        await channel.send(Failed(error=EdgeopsError(f"Loading failed: {error}.").to_dict()))
        return 1
    # What is loaded stays; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    await channel.send(
        Ready(
            load_ms=loaded.load_ms,
            largest_difference=loaded.largest_difference,
            run_ms=loaded.run_ms,
            inline=host.inline,
        )
    )
    if isinstance(await channel.receive(), Serve):
        await _serve(start, app, channel)
    await host.close()
    await channel.send(Drained())
    return 0


def _prepare(start: Start) -> tuple[Loaded, DeviceHost, Starlette]:
    gateway = _gateway(start)
    loaded = load(
        Path(start.slot_dir),
        start.bundle,
        start.variant,
        threads=start.engine_threads,
        ring_path=Path(start.ring_path),
        ring_size_bytes=start.ring_size_bytes,
    )
    fields = loaded.manifest.fields
    book = LabelBook(fields.classification.classes if fields.classification else ())
    host = DeviceHost(
        loaded.manifest,
        start.bundle,
        start.variant,
        loaded.predictor,
        book,
        gateway,
        run_ms=loaded.run_ms,
    )
    routes = tensor_routes(host, request_size_bytes=start.request_size_bytes)
    return loaded, host, Starlette(routes=[*routes, labels_route(book, loaded.predictor)])


def _gateway(start: Start) -> Gateway | None:
    if start.gateway_url is None:
        return None
    return Gateway(
        start.gateway_url,
        key_path=Path(start.device_key_path),
        cert_path=Path(start.device_cert_path),
        ca_path=Path(start.ca_path),
        timeout_s=start.fallback_timeout_s,
        answer_size_bytes=start.request_size_bytes,
    )


async def _serve(start: Start, app: Starlette, channel: _Channel) -> None:
    server = DrainingServer(app, drain_timeout_s=start.drain_timeout_s)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.drain)
    await server.begin([socket.socket(fileno=start.listen_fd)])
    await channel.send(Serving())
    command = asyncio.create_task(_until_drain(channel))
    command.add_done_callback(lambda _: server.drain())
    await server.drain_asked()
    signal.setitimer(signal.ITIMER_REAL, start.drain_timeout_s + _HANG_S)
    await server.finish()
    command.cancel()


async def _until_drain(channel: _Channel) -> None:
    while not isinstance(await channel.receive(), Drain):
        _log.warning("A message came that has no meaning now.")


def _channel_argument(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "--channel" or not arguments[1].isdigit():
        sys.exit("The agent starts this process itself: python -P -m device_agent.serving --channel FD")
    return int(arguments[1])


def entry() -> None:
    """`python -P -m device_agent.serving --channel FD`."""
    sys.exit(main(_channel_argument(sys.argv[1:])))
