"""Enrolment: by a short-lived token a device becomes one of a hub's, once.

The token's text is `eot1.` and base64url of JSON {"url", "ca_sha256", "id", "secret"}. The fingerprint in it
tells the right hub before any of its certificates is trusted: the authority's certificate is fetched without
verification, compared, and then used for everything else.
"""

from __future__ import annotations

import base64
import binascii
import shutil
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.layout import Layout
from device_agent.uplink import hub_api
from device_agent.uplink.identity import (
    BUILDERS,
    CA,
    CERTIFICATE,
    DESIRED_KEY,
    ENROLMENT,
    KEY,
    Enrolment,
    ca_context,
    certificate_request,
    check_certificate,
    load_identity,
    write_identity,
)
from edgeops.durable import write_atomic
from edgeops.errors import AccessError, BadRequestError, ConflictError, TransportError
from edgeops.names import is_digest, require_name
from edgeops.signing.keys import (
    PrivateKey,
    key_id,
    load_private_key,
    load_public_key,
    private_pem,
    public_pem,
)

TOKEN_PREFIX = "eot1."
_PENDING_KEY = "pending.key"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a token's text says: the hub's device URL, its authority's fingerprint, and the proof."""

    url: str
    ca_sha256: str
    id: str
    secret: str


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub answers to an enrolment."""

    device: str
    certificate_pem: str
    ca_pem: str
    desired_key_pem: str
    mqtt_host: str
    mqtt_port: int
    gateway_url: str
    hub_url: str


@dataclass(frozen=True)
class Enrolled:
    """What became of it. `forgot` tells whether an earlier identity's state was dropped."""

    device: str
    hub_url: str
    builders: tuple[str, ...]
    forgot: bool


def parse_token(text: str) -> Token:
    """The token in `text`. Raises `BadRequestError` without repeating it: it is a secret."""
    text = text.strip()
    try:
        if not text.startswith(TOKEN_PREFIX):
            raise ValueError("wrong prefix")
        encoded = text.removeprefix(TOKEN_PREFIX)
        data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        token = msgspec.json.decode(data, type=Token)
        if not is_digest(token.ca_sha256):
            raise ValueError("no fingerprint")
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise BadRequestError(
            "This is no enrolment token.",
            remedy="Get one with edgeops hub token, and copy all of it.",
            subject="token",
        ) from None
    return token


def enroll(
    layout: Layout,
    *,
    token_text: str,
    name: str,
    builders: Sequence[Path],
    force: bool,
    timeout_s: float,
) -> Enrolled:
    """Enrols this device as `name` and writes its identity, in one step.

    `builders` are public keys that come from the device's owner, never from the hub. If the answer gets
    lost, the same command again with the same token goes on with the same key. With `force` an older
    identity is replaced; if that was another device's or another hub's, slots, spool and the update's state
    go with it.

    Raises `ConflictError` when the device is enrolled already (without `force`), `AccessError` when the hub
    is not the one the token names, `BadRequestError` for a bad name or token, and the hub's own refusals.
    """
    require_name(name, "device")
    token = parse_token(token_text)
    keys = {key_id(key): key for key in (load_public_key(path) for path in builders)}
    if not keys:
        raise BadRequestError(
            "No builder would be trusted.", remedy="Name at least one key by --trust.", subject="trust"
        )
    layout.make()
    with layout.lock():
        if layout.identity.exists() and not force:
            raise ConflictError(
                f"This device is enrolled already, as {load_identity(layout.identity).device}.",
                remedy="Use --force to replace its identity.",
                subject=str(layout.identity),
            )
        ca_pem = _fetch_ca(token, timeout_s)
        key = _pending_key(layout)
        answer = _ask(layout, token, name, ca_pem, key, timeout_s)
        check_certificate(answer.certificate_pem.encode(), key, name)
        enrolment = Enrolment(
            device=name,
            hub_url=answer.hub_url,
            mqtt_host=answer.mqtt_host,
            mqtt_port=answer.mqtt_port,
            gateway_url=answer.gateway_url,
            ca_sha256=token.ca_sha256,
        )
        forgot = _forget_another(layout, enrolment)
        files = {
            KEY: private_pem(key),
            CERTIFICATE: answer.certificate_pem.encode(),
            CA: ca_pem,
            DESIRED_KEY: public_pem(load_public_key(answer.desired_key_pem)),
            ENROLMENT: msgspec.json.format(msgspec.json.encode(enrolment)) + b"\n",
        }
        files |= {f"{BUILDERS}/{known}.pub": public_pem(public) for known, public in keys.items()}
        write_identity(layout.identity, files)
        (layout.root / _PENDING_KEY).unlink()
    return Enrolled(name, answer.hub_url, tuple(sorted(keys)), forgot)


def _fetch_ca(token: Token, timeout_s: float) -> bytes:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    pem = hub_api.call(token.url, "/device/v1/ca", context=unverified, timeout_s=timeout_s)
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise TransportError(f"{token.url} did not answer with a certificate.", subject=token.url) from error
    if certificate.fingerprint(hashes.SHA256()).hex() != token.ca_sha256:
        raise AccessError(
            f"The hub at {token.url} is not the one that made this token.",
            remedy="Somebody may be in between; if the hub was set up anew, get a new token.",
            subject=token.url,
        )
    # Only what was compared: the answer may hold more certificates behind the first.
    return certificate.public_bytes(serialization.Encoding.PEM)


def _ask(
    layout: Layout, token: Token, name: str, ca_pem: bytes, key: PrivateKey, timeout_s: float
) -> EnrolAnswer:
    ca_path = layout.run / CA
    write_atomic(ca_path, ca_pem)
    try:
        context = ca_context(ca_path)
    finally:
        ca_path.unlink()
    body = {
        "id": token.id,
        "secret": token.secret,
        "device": name,
        "csr_pem": certificate_request(key, name).decode(),
    }
    answer = hub_api.call_json(
        token.url, "/device/v1/enroll", context=context, timeout_s=timeout_s, body=body
    )
    try:
        return msgspec.convert(answer, EnrolAnswer)
    except msgspec.ValidationError as error:
        raise TransportError(
            f"The hub at {token.url} answered in a way that this agent does not know ({error}).",
            remedy="Check that hub and agent are of versions that fit.",
            subject=token.url,
        ) from error


def _pending_key(layout: Layout) -> PrivateKey:
    # Kept until the identity is written: with the same key the hub takes the same token again.
    path = layout.root / _PENDING_KEY
    if not path.exists():
        write_atomic(path, private_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
    return load_private_key(path)


def _forget_another(layout: Layout, enrolment: Enrolment) -> bool:
    """Drops what belongs to an earlier identity of another name or hub: generations and sequence numbers
    mean nothing to this one."""
    try:
        before = msgspec.json.decode((layout.identity / ENROLMENT).read_bytes(), type=Enrolment)
        same = (before.device, before.ca_sha256) == (enrolment.device, enrolment.ca_sha256)
    except (OSError, msgspec.DecodeError):
        same = False
    if same or not layout.update_file.exists():
        return False
    layout.update_file.unlink()
    for path in layout.root.glob(f"{layout.spool_file.name}*"):
        path.unlink()
    for folder in (layout.slots, layout.staging, layout.rings):
        shutil.rmtree(folder)
    layout.make()
    return True
