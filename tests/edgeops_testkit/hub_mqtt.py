"""A prepared hub with its real broker, and devices that speak MQTT 5 to it over mutual TLS."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from sqlalchemy import select

from cloud_hub.broker.process import Broker
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import reading
from cloud_hub.trust.access import Services
from cloud_hub.trust.enrolment import enroll
from edgeops.clock import now_ms
from edgeops.messages import Ack, BundleRef, Window, decode
from edgeops.sketches import kll_of, profile_of
from edgeops.topics import topic
from edgeops_testkit.hub_core import DeviceKey, open_hub, token
from edgeops_testkit.waiting import wait_until

DIGEST = "d1" * 32
BUNDLE = BundleRef(name="digits", version="1.0.0", digest=DIGEST)


@dataclass
class MqttHub:
    """The hub's services, its broker, and a folder for the devices' keys."""

    services: Services
    broker: Broker
    root: Path

    @property
    def settings(self) -> HubSettings:
        return self.services.settings

    def counters(self) -> dict[str, int]:
        with reading(self.services.engine) as connection:
            rows = connection.execute(select(schema.counters))
            return {row.name: row.value for row in rows}

    def windows(self) -> list[tuple[str, int, int]]:
        """(device, session, sequence) of each stored window, in order."""
        columns = schema.windows.c
        query = select(columns.device, columns.session, columns.sequence)
        with reading(self.services.engine) as connection:
            return sorted(tuple(row) for row in connection.execute(query))

    def device(self, name: str) -> Any:
        """The row of a device."""
        with reading(self.services.engine) as connection:
            return connection.execute(select(schema.devices).where(schema.devices.c.name == name)).one()

    def enrol(self, name: str) -> DeviceFiles:
        """Enrols a device; returns the files it connects with."""
        key = DeviceKey.new()
        content = token(self.services, labels={"site": "north"})
        issued = enroll(
            self.services.engine,
            self.services.authority,
            token_id=content["id"],
            secret=content["secret"],
            device=name,
            csr_pem=key.csr().encode(),
            now_ms=now_ms(),
            on_revoked=lambda _name: None,
        )
        return DeviceFiles.write(self.root / name, name, issued.pem, key.pem, self.services.authority.ca_pem)


@contextmanager
def mqtt_hub(root: Path, **settings: Any) -> Iterator[MqttHub]:
    """A hub with a running broker; no role runs yet."""
    with open_hub(root, **settings) as services:
        broker = Broker(services.settings)
        broker.start()
        try:
            broker.wait_ready()
            yield MqttHub(services, broker, root)
        finally:
            broker.stop()


@dataclass(frozen=True)
class DeviceFiles:
    """A device's certificate and key, and the authority it trusts."""

    name: str
    certificate: Path
    key: Path
    ca: Path

    @classmethod
    def write(cls, folder: Path, name: str, certificate: bytes, key: bytes, ca: bytes) -> DeviceFiles:
        folder.mkdir(exist_ok=True)
        files = cls(name, folder / "device.crt", folder / "device.key", folder / "ca.pem")
        files.certificate.write_bytes(certificate)
        files.key.write_bytes(key)
        files.ca.write_bytes(ca)
        return files

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context


class DeviceClient:
    """A device's MQTT side: it records what happens to it."""

    def __init__(
        self,
        files: DeviceFiles,
        port: int,
        *,
        client_id: str = "",
        will: bytes | None = None,
        reconnect: bool = False,
    ) -> None:
        self.name = files.name
        self.connects: list[ReasonCode] = []
        self.disconnects: list[ReasonCode] = []
        self.messages: list[tuple[str, bytes]] = []
        self._codes: dict[int, ReasonCode] = {}
        self._subscribed = threading.Event()
        self._port = port
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or files.name,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=reconnect,
        )
        client.tls_set_context(files.context())
        if will is not None:
            client.will_set(topic(files.name, "state"), will, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        self.client = client

    @property
    def acked(self) -> set[tuple[int, int]]:
        """The (session, sequence) pairs that the hub has acknowledged."""
        acks = [decode(data, Ack) for where, data in list(self.messages) if where == topic(self.name, "acks")]
        return {pair for ack in acks for pair in ack.pairs}

    def connect(self, *, timeout_s: float = 10) -> DeviceClient:
        """Connects and subscribes to its acknowledgements. Raises OSError if the handshake fails."""
        self.client.connect("127.0.0.1", self._port, keepalive=20)
        self.client.loop_start()
        wait_until(lambda: self.connects, timeout_s, f"{self.name} to be let in")
        self.subscribe(topic(self.name, "acks"))
        return self

    def subscribe(self, topic_filter: str) -> None:
        self._subscribed.clear()
        self.client.subscribe(topic_filter, qos=1)
        assert self._subscribed.wait(10)

    def publish(self, to: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> int:
        """Publishes and waits; returns the broker's reason code."""
        info = self.client.publish(to, payload, qos=qos, retain=retain)
        info.wait_for_publish(10)
        wait_until(lambda: info.mid in self._codes, 10, "the broker's answer to a publication")
        return self._codes.pop(info.mid).value

    def send(self, channel: Any, payload: bytes, *, retain: bool = False) -> int:
        return self.publish(topic(self.name, channel), payload, retain=retain)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(
        self, client: Client, _u: Any, _f: ConnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        self.connects.append(reason)
        if len(self.connects) > 1:
            client.subscribe(topic(self.name, "acks"), qos=1)

    def _on_disconnect(
        self, _c: Client, _u: Any, _f: DisconnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        self.disconnects.append(reason)

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload)))

    def _on_publish(self, _c: Client, _u: Any, mid: int, reason: ReasonCode, _p: Properties) -> None:
        self._codes[mid] = reason

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed.set()


def window(device: str, sequence: int, *, session: int = 1, **changes: Any) -> Window:
    """A small but whole window."""
    values = np.array([0.25, 0.5, 0.75], dtype=np.float32)
    fields: dict[str, Any] = {
        "device": device,
        "session": session,
        "sequence": sequence,
        "start_ms": 1_000 * sequence,
        "end_ms": 1_000 * sequence + 1_000,
        "bundle": BUNDLE,
        "variant": "onnx-int8",
        "requests": 3,
        "errors": {},
        "rejected": 0,
        "latency": kll_of(values),
        "confidence": kll_of(values),
        "classes": {"7": 3},
        "features": {"mean": profile_of(values)},
        "fallbacks": {"low_confidence": 1},
    }
    return Window(**fields | changes)


_RUN_INGEST = """
import asyncio, sys
from cloud_hub.ingest.role import serve
from cloud_hub.settings import HubSettings
asyncio.run(serve(HubSettings.model_validate_json(sys.argv[1]), lambda: print("ready", flush=True)))
"""


class IngestProcess:
    """The ingest role as a process of its own, which can be killed and started again."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> IngestProcess:
        command = [sys.executable, "-P", "-c", _RUN_INGEST, self._settings.model_dump_json()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.close()
        self._process = None


@contextmanager
def ingest_process(settings: HubSettings) -> Iterator[IngestProcess]:
    """A running ingest role; ended at the end."""
    process = IngestProcess(settings).start()
    try:
        yield process
    finally:
        process.stop()
