"""Leaving the listening socket without losing a request, and two processes that share it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from device_agent.processes.serving_protocol import Drain, Drained
from device_agent.telemetry.collector import TelemetryCollector
from device_agent.telemetry.spool import Spool
from edgeops_testkit.bundles import digits_data, make_bundle
from edgeops_testkit.fake_gateway import FakeGateway, make_tls
from edgeops_testkit.rings import windows_in
from edgeops_testkit.serving_process import ServingProcess, bundle_ref, listening, port_of
from edgeops_testkit.waiting import wait_until_async

pytestmark = pytest.mark.slow

CLIENTS = 8
SWITCHES = 6


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("slots")
    return make_bundle(folder, key=None), make_bundle(folder, key=None, version="1.1.0")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


def infer_request(value: float | None = None) -> bytes:
    data = digits_data()[2][0].ravel().tolist() if value is None else [value] * 64
    tensor = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = "POST /v2/models/digits/infer HTTP/1.1\r\nHost: device\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Traffic:
    """Keep-alive clients that ask without a pause. They connect again when told `Connection: close`, as
    HTTP has it; everything else that goes wrong is a failure."""

    def __init__(self, port: int) -> None:
        self.answered: dict[str, int] = {}
        self.closed = 0
        self.stop = False
        self._port = port
        self._request = infer_request()

    async def client(self) -> None:
        while not self.stop:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            keep = True
            while keep and not self.stop:
                writer.write(self._request)
                head, body = await read_answer(reader)
                assert head.startswith(b"http/1.1 200"), head
                digest = json.loads(body)["parameters"]["digest"]
                self.answered[digest] = self.answered.get(digest, 0) + 1
                keep = b"connection: close" not in head
                self.closed += not keep
            assert keep or await reader.read() == b""
            writer.close()

    async def more(self) -> None:
        """Returns when a hundred more answers have come."""
        wanted = sum(self.answered.values()) + 100
        await wait_until_async(lambda: sum(self.answered.values()) >= wanted, 60, "traffic")


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head of a response in lower case, and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return head, await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


def test_switching_under_load_loses_no_request(
    slots: tuple[Path, Path], tmp_path: Path, listener: socket.socket
) -> None:
    traffic = Traffic(port_of(listener))
    rings = tmp_path / "rings"
    processes = contextlib.ExitStack()

    def start(number: int) -> ServingProcess:
        slot, ring = slots[number % 2], rings / f"{number}.ring"
        process = processes.enter_context(ServingProcess(slot, ring, listener))
        process.serve()
        return process

    async def run() -> None:
        current = start(0)
        clients = [asyncio.create_task(traffic.client()) for _ in range(CLIENTS)]
        try:
            for number in range(1, SWITCHES + 1):
                await traffic.more()
                new = await asyncio.to_thread(start, number)
                await traffic.more()  # from both
                assert await asyncio.to_thread(current.drain) == 0
                current = new
            await traffic.more()
        finally:
            traffic.stop = True
            await asyncio.gather(*clients)
        assert await asyncio.to_thread(current.drain) == 0

    with processes:
        asyncio.run(run())
    spool = Spool(tmp_path / "spool.db", "device", size_bytes=1 << 30)
    collector = TelemetryCollector(rings, spool, device="device", interval_s=1)
    collector.collect(0)
    recorded: dict[str, int] = {}
    for window in windows_in(spool):
        recorded[window.bundle.digest] = recorded.get(window.bundle.digest, 0) + window.requests
    assert recorded == traffic.answered
    assert set(recorded) == {bundle_ref(slot).digest for slot in slots}
    assert traffic.closed >= SWITCHES


def test_an_idle_connection_gets_one_more_answer_while_the_process_drains(
    slots: tuple[Path, Path], tmp_path: Path, listener: socket.socket
) -> None:
    async def run(process: ServingProcess) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
        writer.write(infer_request())
        head, _ = await read_answer(reader)
        assert b"connection: close" not in head
        process.send(Drain())
        # The other process answers new connections; this one is still the draining process's.
        await wait_until_async(lambda: not _accepts(process), 20, "the process to stop accepting")
        writer.write(infer_request())
        head, _ = await read_answer(reader)
        assert head.startswith(b"http/1.1 200")
        assert b"connection: close" in head
        assert await reader.read() == b""
        writer.close()

    with ServingProcess(slots[0], tmp_path / "rings" / "a.ring", listener) as process:
        process.serve()
        asyncio.run(run(process))
        process.receive(Drained)
        assert process.process.wait(20) == 0


def _accepts(process: ServingProcess) -> bool:
    """Whether the process still has the listening socket."""
    connections = psutil.Process(process.process.pid).net_connections("tcp4")
    listening_on = {entry.laddr.port for entry in connections if entry.status == psutil.CONN_LISTEN}
    return port_of(process.listener) in listening_on


def test_an_idle_connection_is_closed_in_the_end(
    slots: tuple[Path, Path], tmp_path: Path, listener: socket.socket
) -> None:
    with ServingProcess(slots[0], tmp_path / "rings" / "a.ring", listener, drain_timeout_s=1.0) as process:
        process.serve()
        with socket.create_connection(("127.0.0.1", port_of(listener))) as idle:
            idle.settimeout(20)
            idle.sendall(infer_request())
            assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert process.drain() == 0
            while idle.recv(1 << 16):
                pass
            assert idle.recv(1) == b""


def test_a_request_that_is_being_answered_is_answered_before_the_end(
    slots: tuple[Path, Path], tmp_path: Path, listener: socket.socket
) -> None:
    tls = make_tls(tmp_path / "tls")
    gateway = FakeGateway(mode="hang")

    async def run(process: ServingProcess) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
        writer.write(infer_request(0.3))  # unsure: it waits for the gateway
        await wait_until_async(lambda: gateway.requests, 20, "the request to reach the gateway")
        process.send(Drain())
        head, body = await read_answer(reader)
        assert head.startswith(b"http/1.1 200")
        assert b"connection: close" in head
        assert json.loads(body)["parameters"]["reason"] == "fallback_unavailable"
        writer.close()

    with (
        gateway.running(tls) as url,
        ServingProcess(
            slots[0],
            tmp_path / "rings" / "a.ring",
            listener,
            gateway_url=url,
            fallback_timeout_s=1.0,
            device_key_path=str(tls.device_key),
            device_cert_path=str(tls.device_cert),
            ca_path=str(tls.ca),
        ) as process,
    ):
        process.serve()
        asyncio.run(run(process))
        process.receive(Drained)
        assert process.process.wait(20) == 0
