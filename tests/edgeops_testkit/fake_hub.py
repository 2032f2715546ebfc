"""A fake of the hub, as a device sees it: its device API over real TLS, a real mosquitto, acknowledgements.

It takes the place of the hub where a test must make it fail: answer late, wrongly or not at all.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud_hub.trust import certificates
from edgeops import topics
from edgeops.canonical import sha256_bytes, sha256_file
from edgeops.messages import (
    Ack,
    BundleRef,
    DesiredState,
    DeviceState,
    Event,
    ReportedState,
    Window,
    decode,
    encode,
)
from edgeops.signing.desired import sign_desired
from edgeops.signing.keys import private_pem, public_pem
from edgeops_testkit.waiting import free_port, wait_until

# Given the bytes that would be answered and the request, what is answered instead.
Fault = Callable[[bytes, web.Request], web.StreamResponse]


def status(code: int) -> Fault:
    """Answers with an error status."""
    return lambda _data, _request: web.json_response(
        {"error": {"message": "The test said so.", "remedy": None}}, status=code
    )


def flipped(data: bytes, _request: web.Request) -> web.StreamResponse:
    """Answers with one bit changed."""
    return web.Response(body=bytes([data[0] ^ 1]) + data[1:])


def longer(data: bytes, _request: web.Request) -> web.StreamResponse:
    """Answers with more than there is."""
    return web.Response(body=data + b"more")


class Cut(web.StreamResponse):
    """Answers a part, then breaks the connection."""

    def __init__(self, data: bytes, upto: int) -> None:
        super().__init__(headers={"Content-Length": str(len(data))})
        self._part = data[:upto]

    async def prepare(self, request: Any) -> Any:
        writer = await super().prepare(request)
        await self.write(self._part)
        assert request.transport is not None
        request.transport.abort()
        return writer


class FakeHub:
    """Authority, device API and broker below `folder`; `close` ends all of it.

    `faults[path]` is a list of what to answer next on a path, one for each request; `requests` notes all
    requests as (path, Range header). Windows and events that arrive are acknowledged unless `withhold_acks`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.blobs: dict[str, Path] = {}
        self.signatures: dict[str, Path] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.withhold_acks = False
        self.states: list[DeviceState] = []
        self.reports: list[ReportedState] = []
        self.entries: list[Window | Event] = []
        self.certificate_days = 30
        self._make_authority()
        self.url = ""
        self._serve()
        self.broker = Broker(folder, self)
        self.broker.start()

    def token(self, **changes: str) -> str:
        """An enrolment token; `changes` falsify parts of it."""
        body = {"url": self.url, "ca_sha256": self.ca_sha256, "id": "0" * 32, "secret": "s3cret"} | changes
        return "eot1." + base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")

    def add(self, bundle: Path) -> BundleRef:
        """Hands out a bundle from now on."""
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        for path in bundle.rglob("*"):
            if path.is_file():
                self.blobs[sha256_file(path)] = path
        digest = sha256_file(bundle / "manifest.json")
        self.signatures[digest] = bundle / "model.sig"
        return BundleRef(name=manifest["name"], version=manifest["version"], digest=digest)

    def desire(self, device: str, generation: int, bundle: BundleRef | None, **changes: Any) -> None:
        """Publishes a signed desired state, retained."""
        self.broker.publish(
            topics.topic(device, "desired"), self.desired(device, generation, bundle, **changes)
        )

    def desired(self, device: str, generation: int, bundle: BundleRef | None, **changes: Any) -> bytes:
        """A signed desired state."""
        state = DesiredState(
            device=device, generation=generation, bundle=bundle, rollout=None, issued_at_ms=0
        )
        return sign_desired(self.desired_key, msgspec.structs.replace(state, **changes))

    def last_report(self) -> ReportedState | None:
        """The newest reported state, as the hub orders them."""
        return max(self.reports, key=lambda report: (report.session, report.revision), default=None)

    def close(self) -> None:
        self.broker.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()

    def _make_authority(self) -> None:
        key = certificates.new_key()
        self._ca_key, self._ca = key, certificates.self_signed("fake hub", key)
        self.ca_pem = self._ca.public_bytes(serialization.Encoding.PEM)
        self.ca_sha256 = sha256_bytes(self._ca.public_bytes(serialization.Encoding.DER))
        self.desired_key = certificates.new_key()
        server_key = certificates.new_key()
        server = certificates.server_certificate(
            ["localhost", "127.0.0.1"], server_key.public_key(), self._ca, key, 30
        )
        (self.folder / "ca.crt").write_bytes(self.ca_pem)
        (self.folder / "server.key").write_bytes(private_pem(server_key))
        (self.folder / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))

    def issue(self, csr_pem: str, device: str) -> str:
        """A client certificate for the key of a request."""
        issued = certificates.client_certificate(
            device,
            certificates.key_of_request(csr_pem.encode()),
            self._ca,
            self._ca_key,
            self.certificate_days,
        )
        return issued.public_bytes(serialization.Encoding.PEM).decode()

    def _serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        context.load_verify_locations(self.folder / "ca.crt")
        context.verify_mode = ssl.CERT_OPTIONAL
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def begin() -> None:
            app = web.Application()
            app.router.add_get("/device/v1/ca", self._answer_ca)
            app.router.add_post("/device/v1/enroll", self._answer_enroll)
            app.router.add_post("/device/v1/renew", self._answer_renew)
            app.router.add_get("/device/v1/blobs/{digest}", self._answer_blob)
            app.router.add_get("/device/v1/bundles/{digest}/signature", self._answer_signature)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
            await site.start()
            self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
            ready.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.create_task(begin())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def _respond(self, request: web.Request, data: bytes) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Range")))
        pending = self.faults.get(request.path)
        if pending:
            return pending.pop(0)(data, request)
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if asked is None:
            return web.Response(body=data)
        start = int(asked[1])
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return web.Response(body=data[start:], status=206, headers=headers)

    async def _answer_ca(self, request: web.Request) -> web.StreamResponse:
        return self._respond(request, self.ca_pem)

    async def _answer_enroll(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["secret"] != "s3cret":
            return status(401)(b"", request)
        answer = {
            "device": body["device"],
            "certificate_pem": self.issue(body["csr_pem"], body["device"]),
            "ca_pem": self.ca_pem.decode(),
            "desired_key_pem": public_pem(self.desired_key.public_key()).decode(),
            "mqtt_host": "127.0.0.1",
            "mqtt_port": self.broker.port,
            "gateway_url": "https://127.0.0.1:1",
            "hub_url": self.url,
        }
        return self._respond(request, json.dumps(answer).encode())

    async def _answer_renew(self, request: web.Request) -> web.StreamResponse:
        device = _peer(request)
        body = await request.json()
        pem = self.issue(body["csr_pem"], device)
        return self._respond(request, json.dumps({"device": device, "certificate_pem": pem}).encode())

    async def _answer_blob(self, request: web.Request) -> web.StreamResponse:
        _peer(request)
        path = self.blobs.get(request.match_info["digest"])
        return status(404)(b"", request) if path is None else self._respond(request, path.read_bytes())

    async def _answer_signature(self, request: web.Request) -> web.StreamResponse:
        _peer(request)
        path = self.signatures.get(request.match_info["digest"])
        return status(404)(b"", request) if path is None else self._respond(request, path.read_bytes())


def _peer(request: web.Request) -> str:
    """The device's name from its certificate; without one the answer is 401."""
    transport = request.transport
    shown = transport.get_extra_info("peercert") if transport is not None else None
    if not shown:
        raise web.HTTPUnauthorized
    name: str = next(value for part in shown["subject"] for key, value in part if key == "commonName")
    return name


@dataclass
class Broker:
    """A real mosquitto with mutual TLS for devices and a plain loopback port for the hub's side."""

    folder: Path
    hub: FakeHub
    process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=free_port)
    hub_port: int = field(default_factory=free_port)

    def start(self) -> None:
        """Starts the broker, and the hub's side of it."""
        user = "root" if os.geteuid() == 0 else "mosquitto"
        may = [("write", channel) for channel in topics.DEVICE_WRITES]
        may += [("read", channel) for channel in topics.DEVICE_READS]
        lines = [f"pattern {verb} {topics.ROOT}/%u/{channel}\n" for verb, channel in may]
        (self.folder / "devices.acl").write_text("".join(lines))
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"per_listener_settings true\nuser {user}\nmax_queued_messages 100000\nlog_type error\n"
            f"listener {self.port} 127.0.0.1\ncafile {self.folder}/ca.crt\n"
            f"certfile {self.folder}/server.crt\nkeyfile {self.folder}/server.key\n"
            f"require_certificate true\nuse_identity_as_username true\n"
            f"tls_version tlsv1.3\nallow_anonymous false\nacl_file {self.folder}/devices.acl\n"
            f"listener {self.hub_port} 127.0.0.1\nallow_anonymous true\n"
        )
        self.process = subprocess.Popen(["mosquitto", "-c", str(config)])
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id="hub:fake", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_message = self._take
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        wait_until(self._connect, 10, "mosquitto to listen")
        self._client.loop_start()
        self._client.subscribe([(topics.all_devices(channel), 1) for channel in topics.DEVICE_WRITES])
        assert subscribed.wait(10)

    def stop(self) -> None:
        """Ends the broker, as by a power cut."""
        self._client.disconnect()
        self._client.loop_stop()
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def publish(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        """Publishes as the hub and waits until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def _connect(self) -> bool:
        try:
            self._client.connect("127.0.0.1", self.hub_port)
        except ConnectionRefusedError:
            return False
        return True

    def _take(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        topic, hub = topics.parse(message.topic), self.hub
        assert topic is not None
        payload = bytes(message.payload)
        if topic.channel == "state":
            hub.states.append(decode(payload, DeviceState))
        elif topic.channel == "reported":
            hub.reports.append(decode(payload, ReportedState))
        else:
            windows = topic.channel == "windows"
            entry: Window | Event = decode(payload, Window) if windows else decode(payload, Event)
            hub.entries.append(entry)
            if not hub.withhold_acks:
                ack = Ack(device=topic.device, pairs=((entry.session, entry.sequence),))
                self._client.publish(topics.topic(topic.device, "acks"), encode(ack), qos=1)
