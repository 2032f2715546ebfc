"""Inference requests that no device may answer, and what each must get (for the models of `bundles`)."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

LIMIT_BYTES = 64 << 10
"""What the device must be set to take at most."""


FIELDS: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}


def tensor(**changes: Any) -> bytes:
    """A good request, but for what is changed."""
    return json.dumps({"inputs": [FIELDS | changes]}).encode()


def binary(data: bytes, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """A request whose tensor follows its JSON part."""
    fields = {key: value for key, value in FIELDS.items() if key != "data"} | changes
    head = json.dumps({"inputs": [fields | {"parameters": {"binary_data_size": len(data)}}]}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head))}


INFER = "/v2/models/digits/infer"
NAN = struct.pack("<64f", *[float("nan")] * 64)
# By what is wrong: status, path, body, headers.
BAD_REQUESTS: dict[str, tuple[int, str, bytes, dict[str, str]]] = {
    "nothing": (400, INFER, b"", {}),
    "no JSON": (400, INFER, b"\xff\x00{", {}),
    "cut JSON": (400, INFER, tensor()[:-9], {}),
    "deep JSON": (400, INFER, b"[" * 30_000, {}),
    "another JSON": (400, INFER, b"[1, 2, 3]", {}),
    "no input": (400, INFER, b'{"inputs": []}', {}),
    "an input too many": (400, INFER, json.dumps({"inputs": [FIELDS, FIELDS | {"name": "x"}]}).encode(), {}),
    "wrong name": (400, INFER, tensor(name="picture"), {}),
    "wrong shape": (400, INFER, tensor(shape=[1, 1, 4, 16]), {}),
    "wrong rank": (400, INFER, tensor(shape=[64]), {}),
    "negative shape": (400, INFER, tensor(shape=[-1, 1, 8, 8]), {}),
    "huge shape": (400, INFER, tensor(shape=[1 << 40, 1, 8, 8]), {}),
    "no rows": (400, INFER, tensor(shape=[0, 1, 8, 8], data=[]), {}),
    "too few values": (400, INFER, tensor(data=[0.5] * 63), {}),
    "wrong dtype": (400, INFER, tensor(datatype="INT64", data=[1] * 64), {}),
    "unknown dtype": (400, INFER, tensor(datatype="FLOAT"), {}),
    "text": (400, INFER, tensor(data=["a"] * 64), {}),
    "NaN": (400, INFER, tensor(data=[float("nan")] * 64), {}),
    "infinity": (400, INFER, tensor(data=[1e39] * 64), {}),
    "binary NaN": (400, INFER, *binary(NAN)),
    "too little binary": (400, INFER, *binary(NAN[:-4])),
    "bad header size": (400, INFER, tensor(), {"Inference-Header-Content-Length": "999999"}),
    "unknown output": (400, INFER, tensor()[:-1] + b', "outputs": [{"name": "x"}]}', {}),
    "unknown policy": (
        400, INFER, tensor()[:-1] + b', "parameters": {"edgeops_policy": "ask-nobody"}}', {}),
    "unknown model": (404, "/v2/models/letters/infer", tensor(), {}),
    "unknown version": (404, "/v2/models/digits/versions/9.9.9/infer", tensor(), {}),
    "strange model": (404, "/v2/models/%00%ff../infer", tensor(), {}),
    "too large": (413, INFER, tensor() + b" " * LIMIT_BYTES, {}),
    "a bomb": (413, INFER, gzip.compress(b" " * (50 << 20)), {"Content-Encoding": "gzip"}),
    "no gzip": (400, INFER, tensor(), {"Content-Encoding": "gzip"}),
    "another coding": (415, INFER, tensor(), {"Content-Encoding": "br"}),
    "another type": (415, INFER, tensor(), {"Content-Type": "text/html"}),
}  # fmt: skip
