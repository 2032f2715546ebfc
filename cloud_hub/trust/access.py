"""Who is calling, and may they? The one place where the hub's HTTP sides decide that.

A device shows a certificate of the hub's authority; its serial is looked up at every request, so that a
revoked one is refused on a connection that is open already. An operator shows the bearer token of
`<state_dir>/admin.token`. Nobody else may do anything that is not open to all.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine, select

from cloud_hub.bundles.blobs import BlobStore
from cloud_hub.metrics import HubMetrics
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import open_database, reading
from cloud_hub.trust.authority import Authority
from cloud_hub.trust.limits import RateLimiter
from cloud_hub.trust.tls import PEER
from edgeops.durable import write_atomic
from edgeops.errors import AccessError, ConfigError, UnauthenticatedError
from edgeops.signing.keys import PrivateKey

OPERATOR = "operator"
# Wrong bearer tokens a minute from one address, before it is told to wait.
_WRONG_TOKENS_PER_MINUTE = 30


@dataclass(frozen=True)
class Caller:
    """Who is calling: a device by its name, the operator, or someone who showed nothing."""

    kind: Literal["device", "operator", "anonymous"]
    name: str


ANONYMOUS = Caller("anonymous", "anonymous")


@dataclass(frozen=True)
class Services:
    """What the HTTP handlers of a role process work with; on `app.state.services`."""

    settings: HubSettings
    engine: Engine
    blobs: BlobStore
    authority: Authority
    operator_token: str = field(repr=False)
    wrong_tokens: RateLimiter
    enrolments: RateLimiter
    metrics: HubMetrics

    @classmethod
    def open(cls, settings: HubSettings) -> Services:
        """Opens everything, on a hub that was prepared (`cloud_hub.processes.prepare.prepare`)."""
        engine = open_database(settings)
        return cls(
            settings=settings,
            engine=engine,
            blobs=BlobStore(settings.state_dir / "blobs", settings.blob_size_bytes),
            authority=Authority.open(settings),
            operator_token=read_operator_token(settings),
            wrong_tokens=RateLimiter(_WRONG_TOKENS_PER_MINUTE),
            enrolments=RateLimiter(settings.enroll_rate_per_minute),
            metrics=HubMetrics(engine),
        )

    @property
    def desired_key(self) -> PrivateKey:
        """The key that signs desired states."""
        return self.authority.desired_key

    def close(self) -> None:
        """Gives the database's connections back."""
        self.engine.dispose()


def operator_token_path(settings: HubSettings) -> Path:
    """The file with the operator's token, readable by the hub's user only."""
    return settings.state_dir / "admin.token"


def prepare_operator_token(settings: HubSettings) -> None:
    """Makes the operator's token at the first start. Raises `ConfigError` when what is there is none."""
    path = operator_token_path(settings)
    if not path.exists():
        write_atomic(path, f"{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)
    read_operator_token(settings)


def read_operator_token(settings: HubSettings) -> str:
    """The operator's token. Raises `ConfigError` when there is none."""
    path = operator_token_path(settings)
    try:
        token = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise ConfigError(
            f"The operator's token {path} cannot be read ({error.strerror}).",
            remedy="Start the hub once with edgeops hub serve, which makes it.",
            subject=str(path),
        ) from error
    if len(token) < 20:
        raise ConfigError(
            f"{path} holds no token.",
            remedy="Remove it; the hub makes a new one at its next start.",
            subject=str(path),
        )
    return token


def check_device(engine: Engine, device: str, serial: str) -> None:
    """Passes if this certificate was issued to this device and neither was revoked; else `AccessError`."""
    query = (
        select(schema.certificates.c.revoked_at_ms, schema.devices.c.revoked_at_ms)
        .join(schema.devices, schema.devices.c.name == schema.certificates.c.device)
        .where(schema.certificates.c.serial == serial, schema.certificates.c.device == device)
    )
    with reading(engine) as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        raise AccessError(
            f"The certificate {serial} is not one of a device of this hub.",
            remedy="Enrol the device with edgeops agent enroll.",
            subject=device,
        )
    if row[0] is not None or row[1] is not None:
        raise AccessError(
            f"The certificate of the device {device} was revoked.",
            remedy="Enrol the device again, if it should come back, with a token that allows it.",
            subject=device,
        )


class DeviceDirectory:
    """`check_device` for hot paths: an answer, good or bad, is used again for at most `max_age_s`.

    So a revoked device is cut off within that time. Thread-safe; remembers at most 50,000 certificates.
    """

    def __init__(self, engine: Engine, max_age_s: float = 1.0) -> None:
        self._engine = engine
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, AccessError | None]] = {}

    def check(self, device: str, serial: str) -> None:
        """As `check_device`, from memory while that is fresh."""
        key, now = (device, serial), time.monotonic()
        known = self._known.get(key)
        if known is None or now - known[0] > self._max_age_s:
            known = (now, self._ask(device, serial))
            with self._lock:
                if len(self._known) >= 50_000:
                    self._known.clear()
                self._known[key] = known
        if known[1] is not None:
            raise known[1]

    def fresh(self, device: str, serial: str) -> bool:
        """Whether `check` would answer from memory, without the database."""
        known = self._known.get((device, serial))
        return known is not None and time.monotonic() - known[0] <= self._max_age_s

    def _ask(self, device: str, serial: str) -> AccessError | None:
        try:
            check_device(self._engine, device, serial)
        except AccessError as error:
            return error
        return None


def authenticate(
    scope: Mapping[str, Any], services: Services, directory: DeviceDirectory | None = None
) -> Caller:
    """The caller of an ASGI request: by bearer token if there is one, else by certificate.

    Raises `UnauthenticatedError` for a wrong token, `RateLimitedError` after too many of them, and
    `AccessError` for a certificate that is unknown or revoked. Blocks on the database, unless
    `directory` has a fresh answer.
    """
    authorization = _header(scope, b"authorization")
    if authorization is not None:
        return _operator_of(authorization, source_of(scope), services)
    peer = scope.get("extensions", {}).get(PEER)
    if peer is None:
        return ANONYMOUS
    device, serial = peer["device"], peer["serial"]
    if directory is not None:
        directory.check(device, serial)
    else:
        check_device(services.engine, device, serial)
    return Caller("device", device)


def source_of(scope: Mapping[str, Any]) -> str:
    """The address that a request came from, for rate limits."""
    client = scope.get("client")
    return str(client[0]) if client else "local"


def authenticate_operator(scope: Mapping[str, Any], services: Services) -> Caller:
    """The operator, by bearer token alone. Raises as `authenticate` does; never blocks."""
    authorization = _header(scope, b"authorization")
    if authorization is None:
        raise UnauthenticatedError(
            "This needs the operator's token.",
            remedy="Send it as Authorization: Bearer TOKEN; it is in admin.token in the hub's state folder.",
        )
    return _operator_of(authorization, source_of(scope), services)


# For the OpenAPI document; `authenticate_operator` does the work.
_bearer = HTTPBearer(
    auto_error=False, description="The operator's token, from admin.token in the state folder."
)


async def operator(
    request: Request, _token: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> str:
    """FastAPI dependency: the operator's name. Bearer tokens only, so that no other site can act in a
    browser's session (no cookie is looked at)."""
    services: Services = request.app.state.services
    return authenticate_operator(request.scope, services).name


def device(request: Request) -> str:
    """FastAPI dependency: the name of the device whose certificate the connection has."""
    services: Services = request.app.state.services
    caller = authenticate({**request.scope, "headers": []}, services)
    if caller.kind != "device":
        raise UnauthenticatedError(
            "This needs a device's certificate.", remedy="Enrol the device with edgeops agent enroll."
        )
    return caller.name


def _operator_of(authorization: bytes, source: str, services: Services) -> Caller:
    scheme, _, token = authorization.partition(b" ")
    # compare_digest: its time tells nothing of how much was right. The right token always passes, so
    # nobody can lock the operator out by sending wrong ones.
    right = hmac.compare_digest(token.strip(), services.operator_token.encode())
    if scheme.lower() != b"bearer" or not right:
        services.wrong_tokens.attempt(source)
        raise UnauthenticatedError(
            "The operator's token is wrong.", remedy="Read it from admin.token in the hub's state folder."
        )
    return Caller("operator", OPERATOR)


def _header(scope: Mapping[str, Any], name: bytes) -> bytes | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None
