"""How devices come to belong to the hub, keep belonging to it, and stop.

A token lets its holder enrol devices for a while. Its text also carries the fingerprint of the hub's
authority, so that a device can tell the right hub before it trusts one. Of the token's secret only a
hash is stored. What proves possession of a device's key is its certificate request's own signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, and_, insert, select, update

from cloud_hub import audit
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import reading, writing
from cloud_hub.trust.authority import Authority, IssuedCertificate
from edgeops.errors import (
    AccessError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    UnauthenticatedError,
)
from edgeops.names import require_name

TOKEN_PREFIX = "eot1."
DEFAULT_SITE = "default"
MAX_LABELS = 32

# Told of a device whose certificates have just ended, after the revocation list is on the disk.
OnRevoked = Callable[[str], None]


@dataclass(frozen=True)
class IssuedToken:
    """A new token's text, to be shown once, and when it ends."""

    token: str
    expires_at_ms: int


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels with a `site`, which is `default` if not given. Raises `BadRequestError` on an unfit one."""
    if len(labels) > MAX_LABELS:
        raise BadRequestError(f"A device has at most {MAX_LABELS} labels.", subject="labels")
    for key, value in labels.items():
        require_name(key, "label")
        require_name(value, f"value of the label {key}")
    return {"site": DEFAULT_SITE, **labels}


def issue_token(
    engine: Engine,
    authority: Authority,
    settings: HubSettings,
    *,
    labels: Mapping[str, str],
    uses: int,
    ttl_s: int,
    reenroll: bool,
    actor: str,
    now_ms: int,
) -> IssuedToken:
    """A token that enrols up to `uses` devices within `ttl_s` seconds, giving each these labels.

    With `reenroll` it may also take a name that is taken; the certificates issued to it before end then.
    """
    token_id, secret = secrets.token_hex(16), secrets.token_urlsafe(32)
    fitting = check_labels(labels)
    expires_at_ms = now_ms + ttl_s * 1000
    with writing(engine) as connection:
        connection.execute(
            insert(schema.tokens).values(
                id=token_id,
                secret_sha256=_hash(secret),
                labels_json=json.dumps(fitting, sort_keys=True),
                uses_left=uses,
                created_at_ms=now_ms,
                expires_at_ms=expires_at_ms,
                created_by=actor,
                reenroll=reenroll,
            )
        )
        detail = {"labels": fitting, "uses": uses, "ttl_s": ttl_s, "reenroll": reenroll}
        audit.record(connection, actor, "token.issue", token_id, detail, now_ms)
    body = {
        "url": device_url(settings),
        "ca_sha256": authority.ca_sha256,
        "id": token_id,
        "secret": secret,
    }
    text = base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")
    return IssuedToken(TOKEN_PREFIX + text, expires_at_ms)


def enroll(
    engine: Engine,
    authority: Authority,
    *,
    token_id: str,
    secret: str,
    device: str,
    csr_pem: bytes,
    now_ms: int,
    on_revoked: OnRevoked,
) -> IssuedCertificate:
    """Makes `device` one of the hub's devices and issues its first certificate.

    Asking again with the same token and the same key gives a new certificate and uses up nothing, so a
    device whose answer got lost can simply try again. Raises `UnauthenticatedError` for a token that is
    wrong, used up or expired; `ConflictError` for a name that another key has; `BadRequestError` for an
    unfit name or request; then nothing has changed. Where the name had another key before, its
    certificates end, as with `revoke`.
    """
    require_name(device, "device")
    issued = authority.issue_device(csr_pem, device)
    superseded = False
    with writing(engine) as connection:
        token = _valid_token(connection, token_id, secret, now_ms)
        known = connection.execute(
            select(schema.devices).where(schema.devices.c.name == device)
        ).one_or_none()
        again = known is not None and _is_same_device(connection, known, issued)
        if not again:
            if known is not None and not token.reenroll:
                raise ConflictError(
                    f"The name {device} is taken by another device.",
                    remedy="Choose another name, or make a token with edgeops hub token --reenroll.",
                    subject=device,
                )
            _use_up(connection, token)
            superseded = known is not None
            if superseded:
                _revoke_certificates(connection, device, now_ms)
        _store_device(connection, device, token, issued, known is not None, now_ms)
        _store_certificate(connection, device, issued, now_ms)
        detail = {"token": token_id, "serial": issued.serial, "again": again, "superseded": superseded}
        audit.record(connection, f"token:{token_id}", "device.enroll", device, detail, now_ms)
    if superseded:
        publish_revocations(engine, authority)
        on_revoked(device)
    return issued


def renew(
    engine: Engine, authority: Authority, *, device: str, csr_pem: bytes, now_ms: int
) -> IssuedCertificate:
    """A new certificate for a device that showed a valid one. The old one stays valid until it expires,
    since the answer may get lost. Raises `BadRequestError` for an unfit request."""
    issued = authority.issue_device(csr_pem, device)
    with writing(engine) as connection:
        renewed = connection.execute(
            update(schema.devices)
            .where(schema.devices.c.name == device, schema.devices.c.revoked_at_ms.is_(None))
            .values(certificate_serial=issued.serial, certificate_expires_at_ms=issued.expires_at_ms)
        )
        # Revoked since the request was let in: the new certificate must not undo that.
        if renewed.rowcount != 1:
            raise AccessError(f"The certificate of the device {device} was revoked.", subject=device)
        _store_certificate(connection, device, issued, now_ms)
        audit.record(
            connection, f"device:{device}", "device.renew", device, {"serial": issued.serial}, now_ms
        )
    return issued


def revoke(
    engine: Engine,
    authority: Authority,
    *,
    device: str,
    actor: str,
    now_ms: int,
    on_revoked: OnRevoked,
) -> bool:
    """Ends all certificates of a device, rewrites the broker's revocation list, then calls `on_revoked`
    with the device's name, to cut its connection. True if it was not revoked before.

    Asking again repeats the list and the call, so an operator can try again after a failure in between.
    Raises `NotFoundError`.
    """
    with writing(engine) as connection:
        row = connection.execute(
            select(schema.devices.c.revoked_at_ms).where(schema.devices.c.name == device)
        ).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no device {device}.", subject=device)
        new = row[0] is None
        if new:
            connection.execute(
                update(schema.devices).where(schema.devices.c.name == device).values(revoked_at_ms=now_ms)
            )
            _revoke_certificates(connection, device, now_ms)
            audit.record(connection, actor, "device.revoke", device, {}, now_ms)
    publish_revocations(engine, authority)
    on_revoked(device)
    return new


def publish_revocations(engine: Engine, authority: Authority) -> None:
    """Writes the revocation list for the broker from what the database has. Also done at each start, in
    case the hub ended between the two."""

    def revoked() -> list[tuple[str, int]]:
        certificates = schema.certificates.c
        query = select(certificates.serial, certificates.revoked_at_ms)
        with reading(engine) as connection:
            rows = connection.execute(
                query.where(certificates.revoked_at_ms.is_not(None)).order_by(certificates.serial)
            )
            return [(row[0], row[1]) for row in rows]

    authority.update_revocations(revoked)


def device_url(settings: HubSettings) -> str:
    """Where devices enrol, renew and download."""
    return f"https://{_host(settings)}:{settings.device_port}"


def gateway_url(settings: HubSettings) -> str:
    """Where devices ask for fallback."""
    return f"https://{_host(settings)}:{settings.gateway_port}"


def _host(settings: HubSettings) -> str:
    return f"[{settings.public_host}]" if ":" in settings.public_host else settings.public_host


def _valid_token(connection: Connection, token_id: str, secret: str, now_ms: int) -> Row[Any]:
    token = connection.execute(select(schema.tokens).where(schema.tokens.c.id == token_id)).one_or_none()
    # One answer for all reasons, and one comparison in any case: a guesser learns nothing.
    stored = token.secret_sha256 if token is not None else _hash("")
    right = hmac.compare_digest(stored, _hash(secret)) and token is not None
    if not right or token is None or token.expires_at_ms <= now_ms:
        raise _wrong_token()
    return token


def _use_up(connection: Connection, token: Row[Any]) -> None:
    if token.uses_left <= 0:
        raise _wrong_token()
    connection.execute(
        update(schema.tokens).where(schema.tokens.c.id == token.id).values(uses_left=token.uses_left - 1)
    )


def _wrong_token() -> UnauthenticatedError:
    return UnauthenticatedError(
        "The enrolment token is wrong, used up or expired.", remedy="Make a new one with edgeops hub token."
    )


def _is_same_device(connection: Connection, known: Row[Any], issued: IssuedCertificate) -> bool:
    if known.revoked_at_ms is not None:
        return False
    current = schema.certificates.c.serial == known.certificate_serial
    query = select(schema.certificates.c.public_key_sha256).where(current)
    return bool(connection.execute(query).scalar_one() == issued.public_key_sha256)


def _revoke_certificates(connection: Connection, device: str, now_ms: int) -> None:
    mine = and_(schema.certificates.c.device == device, schema.certificates.c.revoked_at_ms.is_(None))
    connection.execute(update(schema.certificates).where(mine).values(revoked_at_ms=now_ms))


def _store_device(
    connection: Connection,
    device: str,
    token: Row[Any],
    issued: IssuedCertificate,
    known: bool,
    now_ms: int,
) -> None:
    values = {
        "site": json.loads(token.labels_json)["site"],
        "labels_json": token.labels_json,
        "certificate_serial": issued.serial,
        "certificate_expires_at_ms": issued.expires_at_ms,
        "enrolled_at_ms": now_ms,
        "revoked_at_ms": None,
    }
    if known:
        connection.execute(update(schema.devices).where(schema.devices.c.name == device).values(**values))
    else:
        connection.execute(insert(schema.devices).values(name=device, **values))


def _store_certificate(connection: Connection, device: str, issued: IssuedCertificate, now_ms: int) -> None:
    connection.execute(
        insert(schema.certificates).values(
            serial=issued.serial,
            device=device,
            issued_at_ms=now_ms,
            expires_at_ms=issued.expires_at_ms,
            public_key_sha256=issued.public_key_sha256,
        )
    )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
