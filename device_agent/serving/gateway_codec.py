"""The client's half of Open Inference Protocol v2 with binary tensors: what the device says to the gateway.

Triton's binary tensor data extension (see `edgeops.serving.tensor_codec`, the server's half). Binary, since
it carries every dtype and every value (NaN for a null), and costs the device least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from edgeops.errors import TransportError
from edgeops.serving.host import DTYPES, Array, InferRequest
from edgeops.serving.text_tensor import pack_texts, unpack_texts

HEADER_SIZE = "Inference-Header-Content-Length"

_NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}
_Scalar = str | int | float | bool


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, _Scalar] = {}


class _Response(msgspec.Struct):
    outputs: list[_Output]
    parameters: dict[str, _Scalar] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Response)


def encode_request(request: InferRequest) -> tuple[bytes, int]:
    """The body that asks for all outputs in binary, and the size in bytes of its JSON part. The client's
    own parameters stay on the device."""
    blobs = [
        pack_texts(array) if array.dtype == object else np.ascontiguousarray(array).tobytes()
        for array in request.inputs.values()
    ]
    head: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "shape": array.shape,
                "datatype": _NAMES[array.dtype],
                "parameters": {"binary_data_size": len(blob)},
            }
            for (name, array), blob in zip(request.inputs.items(), blobs, strict=True)
        ],
        "parameters": {"binary_data_output": True},
    }
    if request.id:
        head["id"] = request.id
    text = _encoder.encode(head)
    return b"".join((text, *blobs)), len(text)


def decode_response(body: bytes, header_size: str | None) -> tuple[dict[str, Array], dict[str, _Scalar]]:
    """Outputs by name and the response's parameters. Raises `TransportError` when the body is no such
    response: the peer is at fault, and the device has an answer of its own."""
    # Other scripts' digits are digits to Python, and not all of them are numbers to it.
    digits = header_size if header_size is not None and header_size.isascii() else ""
    if not digits.isdigit() or not 0 < int(digits[:18]) <= len(body):
        raise _unfit(f"{HEADER_SIZE} is missing or wrong")
    try:
        response = _decoder.decode(body[: int(digits)])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _unfit(str(error)) from error
    outputs: dict[str, Array] = {}
    offset = int(digits)
    for output in response.outputs:
        dtype = DTYPES.get(output.datatype)
        size = output.parameters.get("binary_data_size")
        if dtype is None or any(length < 0 for length in output.shape):
            raise _unfit(f"output {output.name[:80]!r} has no usable type and shape")
        is_text = output.datatype == "BYTES"
        if type(size) is not int or (not is_text and size != math.prod(output.shape) * dtype.itemsize):
            raise _unfit(f"output {output.name[:80]!r} has another size than its shape says")
        part = body[offset : offset + size] if size >= 0 else b""
        if len(part) != size:
            raise _unfit("it is cut short")
        if is_text:
            try:
                outputs[output.name] = unpack_texts(part, output.shape)
            except ValueError as error:
                raise _unfit(f"output {output.name[:80]!r} is not text ({error})") from error
        else:
            outputs[output.name] = np.frombuffer(part, dtype).reshape(output.shape)
        offset += size
    return outputs, response.parameters


def _unfit(why: str) -> TransportError:
    return TransportError(f"The gateway's answer cannot be read: {why}.", subject="gateway")
