"""Messages: encoding and decoding are inverse, garbage is refused in one way, newer fields are ignored."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import BadRequestError
from edgeops.messages import (
    MAX_MESSAGE_BYTES,
    Ack,
    BundleRef,
    DesiredState,
    DeviceState,
    Event,
    FeatureProfile,
    ReportedState,
    RunningBundle,
    SignedEnvelope,
    UpdateStatus,
    Window,
    decode,
    encode,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
COUNT = st.integers(0, 2**53)
FLOAT = st.floats(allow_nan=False)
COUNTS = st.dictionaries(TEXT, COUNT, max_size=3)
REF = st.builds(BundleRef, name=TEXT, version=TEXT, digest=TEXT)
PROFILE = st.builds(
    FeatureProfile,
    count=COUNT,
    invalid=COUNT,
    mean=FLOAT,
    m2=FLOAT,
    minimum=FLOAT,
    maximum=FLOAT,
    kll=st.binary(max_size=8),
)
MESSAGES: st.SearchStrategy[msgspec.Struct] = st.one_of(
    st.builds(
        DeviceState,
        device=TEXT, session=COUNT, connection=COUNT, online=st.booleans(), at_ms=COUNT, agent_version=TEXT,
    ),
    st.builds(
        DesiredState,
        device=TEXT, generation=COUNT, bundle=st.none() | REF, rollout=st.none() | TEXT, issued_at_ms=COUNT,
    ),
    st.builds(SignedEnvelope, payload=st.binary(max_size=8), key_id=TEXT, signature=st.binary(max_size=8)),
    st.builds(
        ReportedState,
        device=TEXT, session=COUNT, revision=COUNT, generation=COUNT, at_ms=COUNT, rejected_generation=COUNT,
        running=st.none()
        | st.builds(RunningBundle, bundle=REF, variant=TEXT, loaded_at_ms=COUNT, requests=COUNT),
        update=st.builds(
            UpdateStatus,
            phase=TEXT, generation=COUNT, target=st.none() | REF, attempts=COUNT, progress=FLOAT,
            error=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
        ),
    ),
    st.builds(
        Window,
        device=TEXT, session=COUNT, sequence=COUNT, start_ms=COUNT, end_ms=COUNT, bundle=REF, variant=TEXT,
        requests=COUNT, errors=COUNTS, rejected=COUNT, latency=st.binary(max_size=8),
        confidence=st.binary(max_size=8), classes=COUNTS, features=st.dictionaries(TEXT, PROFILE, max_size=2),
        fallbacks=COUNTS, fallback_failures=COUNTS, labels_seen=COUNT, labels_right=COUNT, unsampled=COUNT,
    ),
    st.builds(
        Event,
        device=TEXT, session=COUNT, sequence=COUNT, at_ms=COUNT, kind=TEXT,
        detail=st.dictionaries(TEXT, TEXT, max_size=2),
    ),
    st.builds(Ack, device=TEXT, pairs=st.lists(st.tuples(COUNT, COUNT), max_size=3).map(tuple)),
)  # fmt: skip
KINDS = [DeviceState, DesiredState, SignedEnvelope, ReportedState, Window, Event, Ack]


@given(MESSAGES)
def test_decode_undoes_encode(message: msgspec.Struct) -> None:
    assert decode(encode(message), type(message)) == message


@given(MESSAGES, st.data())
def test_a_cut_message_is_refused(message: msgspec.Struct, data: st.DataObject) -> None:
    whole = encode(message)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(BadRequestError):
        decode(cut, type(message))


def plain_messagepack() -> st.SearchStrategy[Any]:
    leaves = (
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FLOAT | TEXT | st.binary(max_size=4)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    )


@given(
    st.binary(max_size=64) | plain_messagepack().map(msgspec.msgpack.encode),
    st.sampled_from(KINDS),
)
def test_garbage_is_refused_in_one_way(data: bytes, kind: type[msgspec.Struct]) -> None:
    with pytest.raises(BadRequestError):
        decode(data, kind)


@given(MESSAGES, st.data())
def test_a_changed_byte_is_refused_or_gives_a_message(message: msgspec.Struct, data: st.DataObject) -> None:
    changed = bytearray(encode(message))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        kind = type(decode(bytes(changed), type(message)))
    except BadRequestError:
        return
    assert kind is type(message)


def test_fields_of_a_newer_version_are_ignored() -> None:
    newer = msgspec.msgpack.encode({"device": "d", "pairs": [[1, 2]], "colour": {"deep": [1, None]}})
    assert decode(newer, Ack) == Ack(device="d", pairs=((1, 2),))


def test_a_huge_message_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadRequestError, match="larger"):
        decode(bytes(MAX_MESSAGE_BYTES + 1), Ack)


def test_deep_nesting_is_refused() -> None:
    deep = b"\x81\xa6detail" + b"\x81\xa1a" * 200_000 + b"\xc0"
    with pytest.raises(BadRequestError):
        decode(deep, Event)
