"""Desired state: only the hub's own key, only for this device, only as it was signed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import AccessError, ArtifactError
from edgeops.messages import DESIRED_CONTEXT, BundleRef, DesiredState, SignedEnvelope, encode
from edgeops.signing.desired import open_desired, sign_desired
from edgeops.signing.keys import PrivateKey, key_id, load_private_key
from edgeops_testkit.keys import make_keys

KEY: PrivateKey = ec.generate_private_key(ec.SECP256R1())
STATE = DesiredState(
    device="cam-1",
    generation=7,
    bundle=BundleRef(name="digits", version="1.0.0", digest="ab" * 32),
    rollout="r-1",
    issued_at_ms=1_700_000_000_000,
)


@dataclasses.dataclass(frozen=True)
class Forged:
    """An envelope with a signature that holds over whatever the payload is."""

    payload: bytes

    def encode(self, context: bytes = DESIRED_CONTEXT) -> bytes:
        signature = KEY.sign(context + self.payload, ec.ECDSA(hashes.SHA256()))
        return encode(
            SignedEnvelope(payload=self.payload, key_id=key_id(KEY.public_key()), signature=signature)
        )


@given(st.integers(0, 2**53), st.none() | st.just(STATE.bundle), st.none() | st.text(max_size=8))
def test_what_was_signed_is_what_is_opened(
    generation: int, bundle: BundleRef | None, rollout: str | None
) -> None:
    state = msgspec.structs.replace(STATE, generation=generation, bundle=bundle, rollout=rollout)
    assert open_desired(sign_desired(KEY, state), KEY.public_key(), "cam-1") == state


def test_no_changed_bit_goes_unnoticed() -> None:
    data = sign_desired(KEY, STATE)
    accepted = []
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            try:
                open_desired(bytes(changed), KEY.public_key(), "cam-1")
            except (ArtifactError, AccessError):
                continue
            accepted.append((position, bit))
    assert accepted == []


def test_a_cut_envelope_is_refused() -> None:
    whole = sign_desired(KEY, STATE)
    for length in range(len(whole)):
        with pytest.raises(ArtifactError):
            open_desired(whole[:length], KEY.public_key(), "cam-1")


@given(st.binary(max_size=80))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        open_desired(data, KEY.public_key(), "cam-1")


def test_another_device_s_state_is_refused() -> None:
    with pytest.raises(AccessError, match="meant for"):
        open_desired(sign_desired(KEY, STATE), KEY.public_key(), "cam-2")


def test_another_key_s_signature_is_refused(tmp_path: Path) -> None:
    thief = load_private_key(make_keys(tmp_path).private)
    with pytest.raises(AccessError, match="another key"):
        open_desired(sign_desired(thief, STATE), KEY.public_key(), "cam-1")


def test_a_key_id_alone_proves_nothing(tmp_path: Path) -> None:
    thief = load_private_key(make_keys(tmp_path).private)
    payload = encode(STATE)
    signature = thief.sign(DESIRED_CONTEXT + payload, ec.ECDSA(hashes.SHA256()))
    lie = SignedEnvelope(payload=payload, key_id=key_id(KEY.public_key()), signature=signature)
    with pytest.raises(AccessError, match="does not hold"):
        open_desired(encode(lie), KEY.public_key(), "cam-1")


def test_a_signature_for_another_purpose_is_no_desired_state() -> None:
    forged = Forged(encode(STATE))
    assert open_desired(forged.encode(), KEY.public_key(), "cam-1") == STATE
    for context in (b"", b"edgeops desired state v2\x00"):
        with pytest.raises(AccessError, match="does not hold"):
            open_desired(forged.encode(context), KEY.public_key(), "cam-1")


@pytest.mark.parametrize(
    "state",
    [
        msgspec.structs.replace(STATE, generation=-1),
        msgspec.structs.replace(STATE, bundle=BundleRef(name="digits", version="1.0.0", digest="../../etc")),
        msgspec.structs.replace(STATE, bundle=BundleRef(name="../x", version="1.0.0", digest="ab" * 32)),
        msgspec.structs.replace(STATE, bundle=BundleRef(name="digits", version="latest", digest="ab" * 32)),
    ],
)
def test_a_signed_state_that_cannot_be_is_refused(state: DesiredState) -> None:
    with pytest.raises(ArtifactError):
        open_desired(sign_desired(KEY, state), KEY.public_key(), "cam-1")


def test_a_signed_payload_that_is_no_state_is_refused() -> None:
    with pytest.raises(ArtifactError):
        open_desired(Forged(b"\xff").encode(), KEY.public_key(), "cam-1")
