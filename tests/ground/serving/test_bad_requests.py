"""Hostile and mistaken requests: a 4xx in the protocol's form, counted, and never a 5xx."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from edgeops_testkit.small_host import SmallHost

Serve = Callable[[str], tuple[TestClient, SmallHost]]
INFER = "/v2/models/small/infer"
LIMIT_BYTES = 64 << 10


def _tensor(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0], **changes}
    return {key: value for key, value in tensor.items() if value is not ...}


def _json(*tensors: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(tensors), **more}).encode()


def _binary(data: bytes, size: Any = None, cut: int | None = None, **changes: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": len(data) if size is None else size}
    head = _json(_tensor(data=..., parameters=parameters, **changes))
    header = str(len(head) if cut is None else cut)
    return {"content": head + data, "headers": {"Inference-Header-Content-Length": header}}


NESTED_TOO_DEEP = b'{"inputs":[{"name":"pixels","datatype":"FP32","shape":[1,4],"data":' + b"[" * 20_000

CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "does not fit the protocol"),
    "not JSON": (b"{", "does not fit the protocol"),
    "not an object": (b"[]", "does not fit the protocol"),
    "not UTF-8": (b'{"inputs":[{"name":"\xff"}]}', "does not fit the protocol"),
    "lone surrogate": (b'{"inputs":[{"name":"\\ud800"}]}', "does not fit the protocol"),
    "no inputs": (b"{}", "does not fit the protocol"),
    "no input": (_json(), "is missing"),
    "NaN": (b'{"inputs":[{"name":"pixels","datatype":"FP32","shape":[1,1],"data":[NaN]}]}', "protocol"),
    "beyond a double": (_json(_tensor()).replace(b"[0, 0, 0, 0]", b"[1e999,0,0,0]"), "out of range"),
    "beyond a float32": (_json(_tensor(data=[1e39, 0, 0, 0])), "not finite"),
    "minus infinity in float32": (_json(_tensor(data=[-1e300, 0, 0, 0])), "not finite"),
    "null element": (_json(_tensor(data=[None, 0, 0, 0])), "1 value not finite"),
    "null element of integers": (_json(_tensor(datatype="INT64", data=[None, 0, 0, 0])), "INT64"),
    "string element": (_json(_tensor(data=["0", 0, 0, 0])), "FP32"),
    "too few": (_json(_tensor(data=[0, 0, 0])), "3 elements"),
    "too many": (_json(_tensor(data=[0] * 5)), "5 elements"),
    "none": (_json(_tensor(data=[])), "0 elements"),
    "no data": (_json(_tensor(data=...)), "has no data"),
    "null data": (_json(_tensor(data=None)), "flat list"),
    "scalar data": (_json(_tensor(data=3)), "flat list"),
    "nested ragged": (_json(_tensor(shape=[2, 2], data=[[0, 0], [0]])), "not FP32 in its shape"),
    "nested otherwise": (_json(_tensor(data=[[0], [0], [0], [0]])), "data of shape [4, 1]"),
    "nested too deep": (_json(_tensor(data=[[[0, 0, 0, 0]]])), "nested 2 deep"),
    "nested without end": (NESTED_TOO_DEEP, "does not fit the protocol"),
    "empty dimension": (_json(_tensor(shape=[0, 4], data=[])), "each at least 1"),
    "negative dimension": (_json(_tensor(shape=[-1, 4])), "each at least 1"),
    "fractional dimension": (_json(_tensor(shape=[1.5, 4])), "does not fit the protocol"),
    "gigantic dimensions": (_json(_tensor(shape=[2**62] * 8)), "4 elements"),
    "too many dimensions": (_json(_tensor(shape=[1] * 9)), "at most 8"),
    "wrong width": (_json(_tensor(shape=[2, 2])), "the model wants [-1, 4]"),
    "wrong rank": (_json(_tensor(shape=[4])), "the model wants [-1, 4]"),
    "wrong dtype": (_json(_tensor(datatype="FP64")), "the model wants FP32"),
    "FP16 in JSON": (_json(_tensor(datatype="FP16")), "binary"),
    "strings": (_json(_tensor(datatype="BYTES", data=["a", "b", "c", "d"])), "the model wants FP32"),
    "number among strings": (_json(_tensor(datatype="BYTES", data=["a", "b", "c", 4])), "not BYTES"),
    "null among strings": (_json(_tensor(datatype="BYTES", data=["a", "b", "c", None])), "not BYTES"),
    "ragged strings": (
        _json(_tensor(datatype="BYTES", shape=[2, 2], data=[["a"], ["b", "c"]])),
        "data of shape",
    ),
    "strings nested otherwise": (
        _json(_tensor(datatype="BYTES", shape=[1, 2, 2], data=[[["a", "b"], ["c"]]])),
        "data of shape",
    ),
    "half a surrogate pair": (
        _json(_tensor(datatype="BYTES", shape=[1], data=["x"])).replace(b'"x"', b'"\\ud800"'),
        "does not fit the protocol",
    ),
    "unknown datatype": (_json(_tensor(datatype="FP8" * 99)), "is not supported"),
    "unknown input": (_json(_tensor(name="other")), "no input 'other'"),
    "input twice": (_json(_tensor(), _tensor()), "given twice"),
    "shared memory": (_json(_tensor(data=..., parameters={"shared_memory_region": "r"})), "shared memory"),
    "binary without its header": (
        _json(_tensor(data=..., parameters={"binary_data_size": 16})),
        "binary part",
    ),
    "odd parameters": (_json(_tensor(), parameters={"a": {"b": 1}}), "does not fit the protocol"),
    "odd binary flag": (_json(_tensor(), parameters={"binary_data_output": "yes"}), "true or false"),
    "long id": (_json(_tensor(), id="x" * 257), "longer than 256"),
    "numeric id": (_json(_tensor(), id=3), "does not fit the protocol"),
    "unknown output": (_json(_tensor(), outputs=[{"name": "nothing"}]), "no output 'nothing'"),
    "output twice": (_json(_tensor(), outputs=[{"name": "probabilities"}] * 2), "asked for twice"),
    "classification": (
        _json(_tensor(), outputs=[{"name": "probabilities", "parameters": {"classification": 2}}]),
        "classification, which is not supported",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_bad_request_is_told_what_is_wrong(serve: Serve, case: str) -> None:
    client, host = serve("linear")
    body, says = CASES[case]
    answer = client.post(INFER, content=body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]
    # What the routes refuse they report; what the host itself refuses it counts.
    assert host.rejections == ([] if host.requests else ["bad_request"])
    assert client.post(INFER, content=_json(_tensor())).status_code == 200


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("UINT8", [256]),
        ("UINT8", [-1]),
        ("INT8", [128]),
        ("INT64", [2**63]),
        ("UINT64", [2**64]),
        ("INT32", [10**400]),
        ("INT32", [1.5]),
        ("INT32", [True]),
        ("BOOL", [1]),
        ("FP64", [True]),
    ],
)
def test_values_outside_a_dtype_are_refused(serve: Serve, dtype: str, data: list[Any]) -> None:
    client, _ = serve(dtype)
    answer = client.post(INFER, json={"inputs": [_tensor(name="x", datatype=dtype, shape=[1, 1], data=data)]})
    assert answer.status_code == 400
    assert dtype in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_parts", "says"),
    [
        (_binary(bytes(12)), "binary_data_size of 12"),
        (_binary(bytes(16), size=-16), "binary_data_size of -16"),
        (_binary(bytes(16), size="16"), "binary_data_size of '16'"),
        (_binary(bytes(16), size=True), "binary_data_size of True"),
        (_binary(bytes(8), size=16), "cut short"),
        (_binary(bytes(20), size=16), "20 follow"),
        (_binary(b"\x00\x00\x80\x7f" + bytes(12)), "not finite"),
        (_binary(b"\x00\x00\xc0\xff" + bytes(12)), "not finite"),
        (_binary(b"\x01\0\0\0a", datatype="BYTES", shape=[2]), "1 elements, and its shape is [2]"),
        (_binary(b"\x01\0\0\0a", datatype="BYTES", shape=[1], size=6), "cut short"),
        (_binary(b"\x02\0\0\0a", datatype="BYTES", shape=[1]), "cut short"),
        (_binary(b"\x01\0\0", datatype="BYTES", shape=[1]), "cut short"),
        (_binary(b"\xff\xff\xff\xffa", datatype="BYTES", shape=[1]), "cut short"),
        (_binary(b"\x02\0\0\0\xff\xfe", datatype="BYTES", shape=[1]), "utf-8"),
        (_binary(b"\x03\0\0\0\xed\xa0\x80", datatype="BYTES", shape=[1]), "utf-8"),
        (_binary(bytes(16), cut=0), "Inference-Header-Content-Length"),
        (_binary(bytes(16), cut=10**9), "Inference-Header-Content-Length"),
        ({"content": _json(_tensor()), "headers": {"Inference-Header-Content-Length": "-5"}}, "not a size"),
        (
            {"content": _json(_tensor()), "headers": {"Inference-Header-Content-Length": "9" * 30}},
            "not a size",
        ),
    ],
)
def test_bad_binary_requests(serve: Serve, request_parts: dict[str, Any], says: str) -> None:
    client, host = serve("linear")
    answer = client.post(INFER, **request_parts)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert host.rejections == ([] if host.requests else ["bad_request"])


def test_data_both_in_json_and_in_binary(serve: Serve) -> None:
    client, _ = serve("linear")
    head = _json(_tensor(parameters={"binary_data_size": 16}))
    answer = client.post(
        INFER, content=head + bytes(16), headers={"Inference-Header-Content-Length": str(len(head))}
    )
    assert (answer.status_code, "in JSON and in binary" in answer.text) == (400, True)


@pytest.mark.parametrize("compress", [None, gzip.compress, zlib.compress])
def test_a_body_above_the_limit_is_413(serve: Serve, compress: Callable[[bytes], bytes] | None) -> None:
    client, host = serve("linear")
    body = _json(_tensor()) + b" " * LIMIT_BYTES * 100
    headers = {}
    if compress is not None:
        body = compress(body)
        assert len(body) < LIMIT_BYTES  # a small body that grows
        headers = {"Content-Encoding": "gzip" if compress is gzip.compress else "deflate"}
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 413
    assert str(LIMIT_BYTES) in answer.json()["error"]
    assert host.rejections == ["payload_too_large"]
    assert host.requests == []


def test_a_small_body_that_grows_never_takes_much_memory(serve: Serve) -> None:
    client, _ = serve("linear")
    bomb = gzip.compress(bytes(48 << 20))
    assert len(bomb) < LIMIT_BYTES
    tracemalloc.start()
    try:
        answer = client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 413
    assert peak_bytes < 8 << 20


def test_a_body_in_pieces_above_the_limit_is_413(serve: Serve) -> None:
    client, host = serve("linear")
    answer = client.post(INFER, content=(bytes(1024) for _ in range(100)))
    assert answer.status_code == 413
    assert host.rejections == ["payload_too_large"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"garbage", 400),
        (gzip.compress(_json(_tensor()), mtime=0)[:-4], 400),
        (gzip.compress(b"{}", mtime=0) * 2, 400),
    ],
)
def test_broken_compression(serve: Serve, body: bytes, status: int) -> None:
    client, host = serve("linear")
    assert client.post(INFER, content=body, headers={"Content-Encoding": "gzip"}).status_code == status
    assert host.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "br"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_other_media_types_are_415(serve: Serve, headers: dict[str, str]) -> None:
    client, host = serve("linear")
    answer = client.post(INFER, content=_json(_tensor()), headers=headers)
    assert answer.status_code == 415
    assert host.rejections == ["media_type"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/small/versions/9.9.9/infer", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/small/versions/x", 404),
        ("GET", "/v2/no/such/thing", 404),
        ("DELETE", "/v2/", 404),
        ("GET", INFER, 405),
        ("POST", "/v2/models/small", 405),
        ("PUT", "/v2/health/live", 405),
    ],
)
def test_paths_and_methods_that_are_not_there(serve: Serve, method: str, path: str, status: int) -> None:
    client, _ = serve("linear")
    answer = client.request(method, path, content=_json(_tensor()) if method == "POST" else None)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert ("allow" in answer.headers) == (status == 405)


def test_an_answer_that_json_cannot_carry_is_refused(serve: Serve) -> None:
    client, _ = serve("linear")
    overflow = _tensor(data=[3e38, -3e38, 3e38, -3e38])
    answer = client.post(INFER, json={"inputs": [overflow]})
    assert answer.status_code == 400
    assert "not finite" in answer.json()["error"]


def test_an_fp16_answer_needs_binary(serve: Serve) -> None:
    client, _ = serve("FP16")
    body = _binary(bytes(8), name="x", datatype="FP16")
    answer = client.post(INFER, **body)
    assert answer.status_code == 400
    assert "binary_data" in answer.json()["error"]


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_any_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
)
_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["pixels", "other"]) | _any_json,
        "datatype": st.sampled_from(["FP32", "FP64", "FP16", "INT64", "BOOL", "BYTES"]) | _any_json,
        "shape": st.lists(st.integers(-2, 5), max_size=4) | _any_json,
        "data": st.lists(st.floats(width=32) | st.integers(), max_size=8)
        | st.lists(st.text(max_size=4) | st.none(), max_size=4)
        | _any_json,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "shared_memory_region"]), _scalars, max_size=2
        ),
    },
)
_requests = st.fixed_dictionaries(
    {"inputs": st.lists(_tensors, max_size=3) | _any_json},
    optional={
        "id": _any_json,
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["probabilities", "x"])}), max_size=2
        )
        | _any_json,
        "parameters": st.dictionaries(
            st.text(max_size=20) | st.just("binary_data_output"), _scalars, max_size=3
        ),
    },
)
_headers = st.fixed_dictionaries(
    {},
    optional={
        "Inference-Header-Content-Length": st.integers(-3, 300).map(str)
        | st.text("0123456789abc-", max_size=24),
        "Content-Type": st.sampled_from(
            ["application/json", "application/octet-stream", "text/html", ";", ""]
        ),
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "identity", "zstd", ""]),
    },
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200) | _any_json.map(json.dumps) | _requests.map(json.dumps),
    tail=st.just(b"") | st.binary(max_size=40),
    headers=_headers,
)
def test_no_request_gets_a_5xx(serve: Serve, body: bytes | str, tail: bytes, headers: dict[str, str]) -> None:
    client, host = serve("linear")
    content = (body.encode() if isinstance(body, str) else body) + tail
    answer = client.post(INFER, content=content, headers=headers)
    assert answer.status_code in (200, 400, 413, 415), answer.text
    if answer.status_code != 200:
        assert set(answer.json()) == {"error"}
        assert host.rejections or host.requests


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flip=st.integers(0, 10_000),
    bit=st.integers(0, 7),
    binary=st.booleans(),
)
def test_a_flipped_bit_never_breaks_the_server(serve: Serve, flip: int, bit: int, binary: bool) -> None:
    client, _ = serve("linear")
    parts = _binary(bytes(16)) if binary else {"content": _json(_tensor(), id="a"), "headers": {}}
    content = bytearray(parts["content"])
    content[flip % len(content)] ^= 1 << bit
    answer = client.post(INFER, content=bytes(content), headers=parts["headers"])
    assert answer.status_code in (200, 400), answer.text
