"""A fake of the hub's fallback gateway: real protocol routes over real mutual TLS, scripted answers."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette

from edgeops.errors import AccessError
from edgeops.serving.host import InferRequest, InferResponse, ModelInfo
from edgeops.serving.tensor_routes import tensor_routes
from edgeops_testkit.http_server import serving

_Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class TlsFiles:
    """A CA, and what a device and a server got from it."""

    ca: Path
    device_key: Path
    device_cert: Path
    server_key: Path
    server_cert: Path


def make_tls(folder: Path) -> TlsFiles:
    """Fresh P-256 keys and certificates for one day; the server's names are localhost and 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("test CA", ca_key, "test CA", ca_key, ca=True)
    paths = [_write(folder / "ca.pem", authority.public_bytes(serialization.Encoding.PEM))]
    for name in ("device", "server"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate = _certificate(name, key, "test CA", ca_key, ca=False)
        paths.append(_write(folder / f"{name}.key", private))
        paths.append(_write(folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM)))
    return TlsFiles(*paths)


@dataclass
class FakeGateway:
    """Answers for model `digits` with the class `says`, or does what `mode` says: `answer`, `hang` (until the
    client gives up), `refuse` (403), `garbage` (an answer without the model's output)."""

    says: int = 7
    mode: str = "answer"
    requests: list[InferRequest] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    _hanging: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=list)

    def live(self) -> bool:
        return True

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        return True

    def models(self) -> Sequence[ModelInfo]:
        return ()

    def model(self, name: str, version: str | None = None) -> ModelInfo:
        return ModelInfo(name=name, versions=("1.0.0",), platform="fake", inputs=(), outputs=())

    def rejected(self, kind: str) -> None:
        raise AssertionError(f"the device sent a malformed request: {kind}")

    async def infer(self, request: InferRequest, caller: Mapping[str, Any]) -> InferResponse:
        self.requests.append(request)
        self.reasons.append(caller["reason"])
        if self.mode == "refuse":
            raise AccessError("This device is revoked.")
        if self.mode == "hang":
            released = asyncio.Event()
            self._hanging.append((asyncio.get_running_loop(), released))
            await released.wait()
        rows = next(iter(request.inputs.values())).shape[0]
        outputs = {"probabilities": np.tile(np.eye(10, dtype=np.float32)[self.says], (rows, 1))}
        if self.mode == "garbage":
            outputs = {"other": np.zeros(1, np.float32)}
        said = {"answered_by": "cloud", "digest": "d" * 64, "variant": "teacher", "confidence": 1.0}
        parameters = {**said, "class": str(self.says), "backend": "not the client's business"}
        return InferResponse(request.model, request.version or "", request.id, outputs, parameters)

    @contextmanager
    def running(self, tls: TlsFiles) -> Iterator[str]:
        """Serves it and yields its URL."""
        routes = tensor_routes(
            self,
            request_size_bytes=1 << 20,
            caller=lambda scope: {"reason": dict(scope["headers"])[b"x-edgeops-reason"].decode()},
        )
        options = {
            "ssl_keyfile": str(tls.server_key),
            "ssl_certfile": str(tls.server_cert),
            "ssl_ca_certs": str(tls.ca),
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "timeout_graceful_shutdown": 5,
        }
        with serving(Starlette(routes=routes), **options) as port:
            try:
                yield f"https://127.0.0.1:{port}"
            finally:
                for loop, released in self._hanging:
                    loop.call_soon_threadsafe(released.set)


def _certificate(name: str, key: _Key, issuer: str, issuer_key: _Key, *, ca: bool) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
