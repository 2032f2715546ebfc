"""A prepared hub in a folder of its own, and what a device needs to belong to it."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cloud_hub.broker.files import write_all
from cloud_hub.processes.prepare import prepare
from cloud_hub.settings import HubSettings
from cloud_hub.trust.access import Services
from cloud_hub.trust.authority import IssuedCertificate
from cloud_hub.trust.enrolment import TOKEN_PREFIX, enroll, issue_token
from cloud_hub.trust.tls import AsgiApp, TlsFiles, serve_app
from edgeops.clock import now_ms
from edgeops.settings import load
from edgeops.signing.keys import new_key, private_pem
from edgeops_testkit.waiting import free_port


@contextmanager
def open_hub(root: Path, **settings: Any) -> Iterator[Services]:
    """A hub's services, prepared below `root`, on free ports; the builder's key pair is `root/builder.*`."""
    ports = {f"{name}_port": free_port() for name in ("api", "device", "gateway", "mqtt")}
    hosts = {f"{name}_host": "127.0.0.1" for name in ("device", "gateway", "mqtt")}
    loaded = load(HubSettings, **{"state_dir": root / "hub", **ports, **hosts, **settings})
    prepare(loaded)
    if not (root / "builder.key").exists():
        new_key("builder", root)
    (loaded.builders_path / "builder.pub").write_bytes((root / "builder.pub").read_bytes())
    # Where a revocation is written even while no broker runs.
    write_all(loaded)
    services = Services.open(loaded)
    try:
        yield services
    finally:
        services.close()


@dataclass(frozen=True)
class DeviceKey:
    """A device's key and what it can make of it."""

    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> DeviceKey:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        return private_pem(self.key)

    def csr(self, common_name: str = "asks-for-another-name") -> str:
        return csr(self.key, common_name)


def csr(key: Any, common_name: str) -> str:
    """A PKCS #10 request in PEM, signed by `key`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def token(
    services: Services,
    *,
    labels: dict[str, str] | None = None,
    uses: int = 1,
    reenroll: bool = False,
    at_ms: int | None = None,
) -> dict[str, str]:
    """A new enrolment token's content: url, ca_sha256, id and secret. It lasts an hour from `at_ms` on."""
    issued = issue_token(
        services.engine,
        services.authority,
        services.settings,
        labels=labels or {},
        uses=uses,
        ttl_s=3600,
        reenroll=reenroll,
        actor="operator",
        now_ms=at_ms if at_ms is not None else now_ms(),
    )
    return read_token(issued.token)


def read_token(text: str) -> dict[str, str]:
    """What a token's text says."""
    assert text.startswith(TOKEN_PREFIX)
    body = text.removeprefix(TOKEN_PREFIX)
    content: dict[str, str] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return content


def enrolled(
    services: Services, device: str, granted: dict[str, str] | None = None
) -> tuple[DeviceKey, IssuedCertificate]:
    """Enrols a device with a new key, by a token of its own unless one is given."""
    key, used = DeviceKey.new(), granted or token(services)
    issued = enroll(
        services.engine,
        services.authority,
        token_id=used["id"],
        secret=used["secret"],
        device=device,
        csr_pem=key.csr().encode(),
        now_ms=now_ms(),
        on_revoked=lambda name: None,
    )
    return key, issued


def bundle_blobs(bundle: Path) -> dict[str, bytes]:
    """A bundle's files by path, as an uploader reads them: everything but signature and measurements."""
    skipped = ("model.sig", "measurements.json")
    return {
        str(path.relative_to(bundle)): path.read_bytes()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


@contextmanager
def listening(app: AsgiApp, port: int, tls: TlsFiles | None) -> Iterator[None]:
    """Serves `app` on a thread of its own, as a role process does on its main one."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    task: asyncio.Task[None] | None = None

    async def main() -> None:
        nonlocal task
        task = loop.create_task(
            serve_app(app, host="127.0.0.1", port=port, tls=tls, on_ready=ready.set, setting="device_port")
        )
        await asyncio.wait([task])

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        assert task is not None
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
        assert not thread.is_alive()
        assert task.cancelled()
        loop.close()
