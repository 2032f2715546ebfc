"""Devices for the ingest bench: prebuilt MQTT 5 packets over mutual TLS, with little work a message.

A real agent sends a window every 30 s, so a bench that used the agent's client would measure the client.
The process reads a `Job` (MessagePack) from stdin, connects every device, prints `ready`, waits for a line,
sends all, and prints a `Result` once the hub has acknowledged every window.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import sys
import time
from collections.abc import Iterator
from typing import cast

import msgspec
import uvloop

from edgeops.messages import Ack, decode
from edgeops.topics import topic

# MQTT 5, 2.1.2: the packets' first bytes.
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
_QOS_1 = 0x02
_MAX_PACKET_ID = 65_535


class Device(msgspec.Struct):
    """One device: its files, and its windows, encoded."""

    name: str
    certificate: str
    key: str
    windows: list[bytes]


class Job(msgspec.Struct):
    """`in_flight` windows of each device may wait for the hub's acknowledgement at once."""

    port: int
    ca: str
    in_flight: int
    devices: list[Device]


class Result(msgspec.Struct):
    """Seconds from the first publication to the hub's last acknowledgement, and of this process's CPU."""

    elapsed_s: float
    cpu_s: float
    acknowledged: int


class _Connection(asyncio.Protocol):
    def __init__(self, device: Device, in_flight: int) -> None:
        self._device = device
        self._in_flight = in_flight
        self._packets = [_publish(device, index) for index in range(len(device.windows))]
        self._sent = 0
        self._acked: set[tuple[int, int]] = set()
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.subscribed = loop.create_future()
        self.done = loop.create_future()

    @property
    def acknowledged(self) -> int:
        return len(self._acked)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's TLS transport is a WriteTransport by its methods, not by its class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=8 << 20)
        name = _string(self._device.name)
        transport.write(_packet(_CONNECT, _string("MQTT") + struct.pack("!BBHB", 5, 0x02, 600, 0) + name))

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.subscribed, self.done):
            if not future.done():
                future.set_exception(error or ConnectionError("the broker closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        used = 0
        for kind, start, end in _frames(self._buffer):
            self._handle(kind, self._buffer[start:end])
            used = end
        self._buffer = self._buffer[used:]

    def send(self) -> None:
        """Sends as much as may be under way."""
        until = min(len(self._packets), self.acknowledged + self._in_flight)
        if until > self._sent and self._transport is not None:
            self._transport.write(b"".join(self._packets[self._sent : until]))
            self._sent = until

    def _handle(self, kind: int, body: bytes) -> None:
        assert self._transport is not None
        if kind == _CONNACK:
            if body[1] != 0:
                raise ConnectionRefusedError(f"the broker refused {self._device.name} ({body[1]})")
            acks = _string(topic(self._device.name, "acks"))
            self._transport.write(_packet(_SUBSCRIBE, b"\x00\x01\x00" + acks + b"\x01"))
        elif kind == _SUBACK:
            self.subscribed.set_result(None)
        elif kind & 0xF0 == _PUBLISH:
            self._handle_acks(body)

    def _handle_acks(self, body: bytes) -> None:
        assert self._transport is not None
        at = 2 + int.from_bytes(body[:2])
        self._transport.write(_packet(_PUBACK, body[at : at + 2]))
        # No properties: the hub sends none.
        self._acked.update(decode(body[at + 3 :], Ack).pairs)
        if self.acknowledged == len(self._packets):
            if not self.done.done():
                self.done.set_result(None)
        else:
            self.send()


def _frames(buffer: bytes) -> Iterator[tuple[int, int, int]]:
    """First byte, start and end of the body of each whole packet in `buffer`."""
    at, size = 0, len(buffer)
    while at + 2 <= size:
        length, shift, start = 0, 0, at + 1
        while True:
            if start >= size:
                return
            byte = buffer[start]
            start += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if start + length > size:
            return
        yield buffer[at], start, start + length
        at = start + length


def _publish(device: Device, index: int) -> bytes:
    packet_id = index % _MAX_PACKET_ID + 1
    head = _string(topic(device.name, "windows")) + struct.pack("!HB", packet_id, 0)
    return _packet(_PUBLISH | _QOS_1, head + device.windows[index])


def _packet(kind: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([kind]) + bytes(length) + body


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


async def _run(job: Job) -> Result:
    loop = asyncio.get_running_loop()
    connections = []
    for device in job.devices:
        context = ssl.create_default_context(cafile=job.ca)
        context.load_cert_chain(device.certificate, device.key)
        _, connection = await loop.create_connection(
            lambda device=device: _Connection(device, job.in_flight),  # type: ignore[misc]
            "127.0.0.1",
            job.port,
            ssl=context,
        )
        await connection.subscribed
        connections.append(connection)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.readline)
    start, cpu = time.perf_counter(), time.process_time()
    for connection in connections:
        connection.send()
    await asyncio.gather(*(connection.done for connection in connections))
    elapsed_s = time.perf_counter() - start
    acknowledged = sum(connection.acknowledged for connection in connections)
    return Result(elapsed_s, time.process_time() - cpu, acknowledged)


def main() -> None:
    size = int.from_bytes(sys.stdin.buffer.read(8))
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(size), type=Job)
    result = uvloop.run(_run(job))
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    main()
