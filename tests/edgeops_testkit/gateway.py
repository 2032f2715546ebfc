"""A real gateway role over TLS in a thread, with bundles published and devices enrolled."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvloop

from cloud_hub.bundles import registry
from cloud_hub.fallback.gateway import serve
from cloud_hub.store.database import writing
from cloud_hub.trust import enrolment
from cloud_hub.trust.access import Services
from edgeops.canonical import sha256_bytes
from edgeops.clock import now_ms
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.hub_core import DeviceKey, bundle_blobs, token


def publish(services: Services, bundle: Path) -> str:
    """Uploads and publishes a bundle; returns its digest."""
    blobs = bundle_blobs(bundle)
    for data in blobs.values():
        services.blobs.put(sha256_bytes(data), [data])
    published, _ = registry.publish(
        services.engine,
        services.blobs,
        services.settings,
        digest=sha256_bytes(blobs["manifest.json"]),
        signature=(bundle / "model.sig").read_bytes(),
        measurements=(bundle / "measurements.json").read_bytes(),
        actor="operator",
        now_ms=now_ms(),
    )
    return published.digest


def make_and_publish(services: Services, root: Path, **options: Any) -> str:
    """A bundle of the test kit, signed by the key of `open_hub`, published."""
    return publish(services, make_bundle(root / "bundles", key=root / "builder.key", **options))


def set_lifecycle(services: Services, digest: str, lifecycle: registry.Lifecycle) -> None:
    with writing(services.engine) as connection:
        registry.set_lifecycle(
            connection, digest=digest, lifecycle=lifecycle, actor="operator", now_ms=now_ms()
        )


def set_alias(services: Services, name: str, digest: str) -> None:
    with writing(services.engine) as connection:
        registry.set_alias(
            connection, name=name, alias="prod", digest=digest, actor="operator", now_ms=now_ms()
        )


@dataclass(frozen=True)
class DeviceFiles:
    """An enrolled device's name, certificate and key."""

    name: str
    certificate: Path
    key: Path


def enrol(services: Services, folder: Path, name: str) -> DeviceFiles:
    granted, key = token(services), DeviceKey.new()
    issued = enrolment.enroll(
        services.engine,
        services.authority,
        token_id=granted["id"],
        secret=granted["secret"],
        device=name,
        csr_pem=key.csr().encode(),
        now_ms=now_ms(),
        on_revoked=lambda device: None,
    )
    files = DeviceFiles(name, folder / f"{name}.crt", folder / f"{name}.key")
    files.certificate.write_bytes(issued.pem)
    files.key.write_bytes(key.pem)
    return files


def revoke(services: Services, name: str) -> None:
    enrolment.revoke(
        services.engine,
        services.authority,
        device=name,
        actor="operator",
        now_ms=now_ms(),
        on_revoked=lambda device: None,
    )


@dataclass
class RunningGateway:
    """A gateway that runs, and clients of it."""

    services: Services
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.services.settings.gateway_port}"

    @property
    def ca(self) -> Path:
        return self.services.authority.files.ca

    def client(self, device: DeviceFiles | None = None, token: str | None = None) -> httpx.Client:
        """A client with a device's certificate, a bearer token, both, or nothing."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if device is not None:
            context.load_cert_chain(device.certificate, device.key)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        client = httpx.Client(base_url=f"https://{self.address}", verify=context, headers=headers, timeout=30)
        self.clients.append(client)
        return client

    def operator(self) -> httpx.Client:
        return self.client(token=self.services.operator_token)


@contextmanager
def running_gateway(services: Services) -> Iterator[RunningGateway]:
    """Runs the gateway role of a prepared hub until the end of the block."""
    ready, failures = threading.Event(), []

    async def main() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        task = asyncio.create_task(serve(services.settings, ready.set))
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)
        ready.set()

    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    assert ready.wait(30), "the gateway did not start"
    gateway = RunningGateway(services)
    try:
        if not failures:
            yield gateway
    finally:
        for client in gateway.clients:
            client.close()
        loop, stop = loops[0]
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(30)
    assert not thread.is_alive(), "the gateway did not stop"
    if failures:
        raise failures[0]


def infer_body(images: np.ndarray, **more: Any) -> bytes:
    """An inference request in JSON for the test kit's digits."""
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
    }
    return json.dumps({"inputs": [tensor], **more}).encode()
