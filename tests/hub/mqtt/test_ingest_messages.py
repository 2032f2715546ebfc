"""What a hostile device may put into a message, and which of two states wins."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.ingest.messages import (
    MAX_COUNT,
    MAX_DETAIL_BYTES,
    MAX_FEATURES,
    event_row,
    reported_row,
    state_rank,
    state_row,
    window_row,
)
from edgeops.errors import BadRequestError
from edgeops.messages import (
    BundleRef,
    DeviceState,
    Event,
    ReportedState,
    RunningBundle,
    UpdateStatus,
    Window,
    decode,
    encode,
)
from edgeops.sketches import kll_of, profile_of
from edgeops_testkit.hub_mqtt import BUNDLE, window

GOOD = window("north-1", 5)
PROFILE = GOOD.features["mean"]


def test_a_window_becomes_a_row_with_its_totals() -> None:
    message = window(
        "north-1",
        5,
        requests=9,
        errors={"engine": 2, "timeout": 1},
        fallbacks={"low_confidence": 4},
        labels_seen=3,
    )
    row = window_row(message, b"payload", 77)
    assert (row["device"], row["session"], row["sequence"]) == ("north-1", 1, 5)
    assert (row["requests"], row["errors"], row["fallbacks"], row["labels_seen"]) == (9, 3, 4, 3)
    assert (row["model"], row["digest"], row["received_ms"], row["payload"]) == (
        "digits",
        BUNDLE.digest,
        77,
        b"payload",
    )


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.25], np.arange(1000)])
def test_profiles_of_any_size_are_let_in(values: Any) -> None:
    profile = profile_of(np.asarray(values, dtype=np.float32))
    assert window_row(window("north-1", 1, features={"mean": profile}), b"", 0)["sequence"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"session": 0},
        {"session": -1},
        {"sequence": 0},
        {"sequence": MAX_COUNT + 1},
        {"start_ms": -1},
        {"start_ms": 9_000_000, "end_ms": 8_000_000},
        {"end_ms": 1 << 62},
        {"requests": -1},
        {"requests": 1 << 63},
        {"rejected": -1},
        {"cache_hits": -1},
        {"tokens": MAX_COUNT + 1},
        {"unsampled": -5},
        {"outside": -1},
        {"outside": 4},
        {"errors": {"engine": -1}},
        {"errors": {"engine": 4}},
        {"fallbacks": {"low_confidence": 4}},
        {"fallback_failures": {"low_confidence": -4}},
        {"classes": {"7": 1 << 60}},
        {"classes": {"x" * 201: 1}},
        {"classes": {str(number): 0 for number in range(10_001)}},
        {"labels_seen": 1, "labels_right": 2},
        {"latency": b""},
        {"latency": b"\x00" * 100},
        {"confidence": kll_of(np.zeros(3))[:6]},
        {"confidence": b"\x05\x01\x0f\x00" + b"\x00" * (64 << 10)},
        {"bundle": BundleRef(name="../x", version="1.0.0", digest=BUNDLE.digest)},
        {"bundle": BundleRef(name="digits", version="one", digest=BUNDLE.digest)},
        {"bundle": BundleRef(name="digits", version="1.0.0", digest="d1")},
        {"variant": "a\x00b"},
        {"features": {"": PROFILE}},
        {"features": {"x" * 201: PROFILE}},
        {"features": {str(number): PROFILE for number in range(MAX_FEATURES + 1)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, count=-1)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, count=4)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, invalid=-1)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, mean=math.nan)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, m2=-0.5)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, minimum=-math.inf)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, maximum=math.inf)}},
        {"features": {"mean": msgspec.structs.replace(PROFILE, kll=b"nothing")}},
    ],
    ids=str,
)
def test_an_absurd_window_is_refused(changes: dict[str, Any]) -> None:
    assert window_row(GOOD, b"", 0)
    with pytest.raises(BadRequestError):
        window_row(msgspec.structs.replace(GOOD, **changes), b"", 0)


@given(st.binary(max_size=300) | st.builds(lambda cut: encode(GOOD)[:cut], st.integers(0, len(encode(GOOD)))))
def test_any_bytes_are_a_window_or_a_bad_request(data: bytes) -> None:
    try:
        row = window_row(decode(data, Window), data, 0)
    except BadRequestError:
        assert data != encode(GOOD)
    else:
        assert row["sequence"] >= 1


@given(st.integers(0, len(encode(GOOD)) - 1), st.integers(0, 255))
def test_one_changed_byte_is_a_window_or_a_bad_request(at: int, byte: int) -> None:
    data = bytearray(encode(GOOD))
    data[at] = byte
    try:
        row = window_row(decode(bytes(data), Window), b"", 0)
    except BadRequestError:
        assert bytes(data) != encode(GOOD)
    else:
        numbers = [value for key, value in row.items() if isinstance(value, int)]
        assert all(0 <= number <= MAX_COUNT for number in numbers)


def event(**changes: Any) -> Event:
    fields: dict[str, Any] = {
        "device": "north-1",
        "session": 1,
        "sequence": 1,
        "at_ms": 5,
        "kind": "update.confirmed",
        "detail": {"generation": 3},
    }
    return Event(**fields | changes)


def test_an_event_becomes_a_row() -> None:
    row = event_row(event(), 9)
    assert (row["kind"], row["detail_json"], row["received_ms"]) == (
        "update.confirmed",
        '{"generation":3}',
        9,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": ""},
        {"kind": "x" * 65},
        {"kind": "a\x00b"},
        {"at_ms": -1},
        {"sequence": 0},
        {"detail": {"text": "x" * MAX_DETAIL_BYTES}},
        {"detail": {"what": msgspec.msgpack.Ext(5, b"..")}},
    ],
    ids=["empty kind", "long kind", "zero byte", "time", "sequence", "long detail", "no plain data"],
)
def test_an_absurd_event_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        event_row(event(**changes), 0)


def reported(**changes: Any) -> ReportedState:
    fields: dict[str, Any] = {
        "device": "north-1",
        "session": 1,
        "revision": 2,
        "generation": 3,
        "running": RunningBundle(bundle=BUNDLE, variant="onnx-int8", loaded_at_ms=1, requests=12),
        "update": UpdateStatus(phase="idle", generation=3),
        "at_ms": 5,
        "rejected_generation": 2,
    }
    return ReportedState(**fields | changes)


def test_a_report_becomes_columns() -> None:
    row = reported_row(reported(), 9)
    assert (row["running_digest"], row["running_variant"], row["running_requests"]) == (
        BUNDLE.digest,
        "onnx-int8",
        12,
    )
    assert (row["reported_session"], row["reported_revision"], row["reported_generation"]) == (1, 2, 3)
    assert (row["rejected_generation"], row["update_phase"], row["reported_at_ms"]) == (2, "idle", 9)
    nothing = reported_row(reported(running=None), 9)
    assert (nothing["running_digest"], nothing["running_requests"]) == (None, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": -1},
        {"revision": 1 << 60},
        {"generation": -1},
        {"rejected_generation": -1},
        {"update": UpdateStatus(phase="", generation=1)},
        {"update": UpdateStatus(phase="idle", generation=1, progress=math.nan)},
        {"update": UpdateStatus(phase="idle", generation=1, progress=1.5)},
        {"update": UpdateStatus(phase="idle", generation=1, error={"x": "y" * MAX_DETAIL_BYTES})},
        {
            "update": UpdateStatus(
                phase="idle", generation=1, target=BundleRef(name="", version="", digest="")
            )
        },
        {"running": RunningBundle(bundle=BUNDLE, variant="", loaded_at_ms=1, requests=1)},
        {"running": RunningBundle(bundle=BUNDLE, variant="onnx-int8", loaded_at_ms=1, requests=-1)},
    ],
    ids=str,
)
def test_an_absurd_report_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        reported_row(reported(**changes), 0)


def state(connection: int, online: bool, **changes: Any) -> DeviceState:
    return DeviceState(device="north-1", session=1, connection=connection, online=online, at_ms=0, **changes)


def test_an_absurd_state_is_refused() -> None:
    with pytest.raises(BadRequestError):
        state_row(state(-1, True), 0)
    with pytest.raises(BadRequestError):
        state_row(state(1, True, agent_version="v" * 33), 0)


@given(st.data())
def test_a_late_birth_never_revives_a_dead_device(data: st.DataObject) -> None:
    """Births and wills of several connections arrive in any order, any number of times: what is kept is
    the last connection, and that it is dead if its will was among them."""
    last = data.draw(st.integers(1, 4))
    died = data.draw(st.sets(st.integers(1, last)))
    messages = [(number, True) for number in range(1, last + 1)] + [(number, False) for number in died]
    order = data.draw(st.permutations(messages + data.draw(st.lists(st.sampled_from(messages)))))
    kept = (0, False)
    for message in order:
        kept = max(kept, message, key=lambda each: state_rank(*each))
    assert kept == (last, last not in died)
