"""The hub's signature over what it wants one device to run.

The signature covers a context string before the payload, so that nothing else that this key ever signs can
be taken for a desired state.
"""

from __future__ import annotations

from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgeops.errors import AccessError, ArtifactError, BadRequestError
from edgeops.messages import DESIRED_CONTEXT, DesiredState, SignedEnvelope, decode, encode
from edgeops.names import is_digest, is_name, is_version
from edgeops.signing.keys import PrivateKey, PublicKey, key_id


def sign_desired(private_key: PrivateKey, state: DesiredState) -> bytes:
    """An encoded `SignedEnvelope` around `state`: the payload of the `desired` topic."""
    payload = encode(state)
    signature = private_key.sign(DESIRED_CONTEXT + payload, ec.ECDSA(hashes.SHA256()))
    return encode(
        SignedEnvelope(payload=payload, key_id=key_id(private_key.public_key()), signature=signature)
    )


def open_desired(data: bytes, public_key: PublicKey, device: str) -> DesiredState:
    """The desired state in `data`, if `public_key` signed it for `device`.

    Raises `ArtifactError` if `data` is no envelope, or holds no usable state; `AccessError` if another
    key signed it, the signature does not hold, or it is meant for another device. Whether its generation
    is new is the caller's to judge: only the caller knows the last one.
    """
    envelope = _decode(data, SignedEnvelope)
    if envelope.key_id != key_id(public_key):
        raise _refused("is signed by another key than the hub's that was given at enrolment")
    try:
        public_key.verify(envelope.signature, DESIRED_CONTEXT + envelope.payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _refused("has a signature that does not hold") from None
    state = _decode(envelope.payload, DesiredState)
    if state.device != device:
        raise _refused(f"is meant for the device {state.device!r}")
    _check(state)
    return state


MessageT = TypeVar("MessageT", SignedEnvelope, DesiredState)


def _decode(data: bytes, kind: type[MessageT]) -> MessageT:
    try:
        return decode(data, kind)
    except BadRequestError as error:
        raise ArtifactError(
            f"The desired state is not one: {error.message}",
            remedy="Check that hub and agent are of versions that fit.",
            subject="desired",
        ) from error


def _check(state: DesiredState) -> None:
    bundle = state.bundle
    usable = state.generation >= 0 and (
        bundle is None or (is_digest(bundle.digest) and is_name(bundle.name) and is_version(bundle.version))
    )
    if not usable:
        raise ArtifactError(
            "The desired state has a generation or a bundle that cannot be.",
            remedy="Check that hub and agent are of versions that fit.",
            subject="desired",
        )


def _refused(why: str) -> AccessError:
    return AccessError(
        f"The desired state {why}.",
        remedy="If the hub has new keys, enrol this device again.",
        subject="desired",
    )
