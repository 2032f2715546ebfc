"""Open Inference Protocol v2 bodies: bytes to arrays and back, with nothing trusted on the way in.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
("Inference", "Tensor Data") and Triton's binary tensor data extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.

BYTES are text: strings in JSON, UTF-8 in binary data. A null among the numbers of a floating tensor in JSON
means a missing value and becomes NaN; the protocol has no other word for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import msgspec
import numpy as np

from edgeops.errors import BadRequestError
from edgeops.serving.host import DTYPES, Array, InferRequest, InferResponse
from edgeops.serving.text_tensor import pack_texts, unpack_texts

MAX_RANK = 8
MAX_ID_LENGTH = 256

_DTYPE_NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}
_WHITESPACE = frozenset(b" \t\r\n")
_Scalar = str | int | float | bool


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, _Scalar] | None = None
    data: msgspec.Raw = msgspec.Raw()  # decoded once the datatype is known


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, _Scalar] | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, _Scalar] | None = None
    outputs: list[_Output] | None = None


_request_decoder = msgspec.json.Decoder(_Request)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """How the caller wants the outputs: `binary` by name, `default_binary` for all others."""

    binary: Mapping[str, bool]
    default_binary: bool


_JSON_OUTPUTS = OutputPlan({}, False)


def decode_request(
    body: bytes, header_size_bytes: int | None, model: str, version: str | None
) -> tuple[InferRequest, OutputPlan]:
    """The request in `body`. Its first `header_size_bytes` are JSON and the rest is binary tensor data in
    the order of the inputs; None: all of it is JSON.

    Arrays are C-contiguous, aligned, in native byte order, and have at least one element; they may be
    read-only, and floats in them may be NaN or infinite: which values fit is for the model's contract to say.
    Raises `BadRequestError` (subject: the field) on anything else.
    """
    binary: memoryview | None = None
    if header_size_bytes is not None:
        if not 0 < header_size_bytes <= len(body):
            raise BadRequestError(
                f"Inference-Header-Content-Length is {header_size_bytes}, of {len(body)} bytes.",
                remedy="Set it to the size of the JSON part, which comes first.",
                subject="Inference-Header-Content-Length",
            )
        binary = memoryview(body)[header_size_bytes:]
        body = body[:header_size_bytes]
    try:
        raw = _request_decoder.decode(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"The request does not fit the protocol: {error}.", subject="body") from error
    identifier = raw.id or ""
    if len(identifier) > MAX_ID_LENGTH:
        raise BadRequestError(f"The id is longer than {MAX_ID_LENGTH} characters.", subject="id")
    inputs: dict[str, Array] = {}
    offset = 0
    for tensor in raw.inputs:
        if tensor.name in inputs:
            raise BadRequestError(f"The input {tensor.name!r} is given twice.", subject=tensor.name)
        inputs[tensor.name], offset = _array(tensor, binary, offset)
    if binary is not None and offset != len(binary):
        raise BadRequestError(
            f"The inputs name {offset} bytes of binary data, and {len(binary)} follow the JSON part.",
            subject="binary_data_size",
        )
    names, plan, parameters = _JSON_NAMES, _JSON_OUTPUTS, raw.parameters or {}
    if raw.outputs or parameters:
        names, plan, parameters = _outputs(raw.outputs or [], parameters)
    return InferRequest(model, version, identifier, inputs, names, parameters), plan


_JSON_NAMES: tuple[str, ...] = ()


def encode_response(
    response: InferResponse, requested: Sequence[str], plan: OutputPlan
) -> tuple[bytes, int | None]:
    """The body, and the size in bytes of its JSON part when binary data follows.

    `requested` names the outputs to send, in order; empty: all. Raises `BadRequestError` when an output
    is unknown, and when JSON was asked for and cannot express it (FP16, or a value that is not finite:
    finite inputs can still overflow inside the model).
    """
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name in requested or response.outputs:
        array = response.outputs.get(name)
        if array is None:
            raise BadRequestError(f"The model has no output {name!r}.", subject=name)
        datatype = _DTYPE_NAMES[array.dtype]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if plan.binary.get(name, plan.default_binary):
            blob = pack_texts(array) if datatype == "BYTES" else array.tobytes()
            blobs.append(blob)
            tensor["parameters"] = {"binary_data_size": len(blob)}
        else:
            tensor["data"] = _json_data(name, datatype, array)
        tensors.append(tensor)
    head: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        head["id"] = response.id
    if response.parameters:
        head["parameters"] = response.parameters
    head["outputs"] = tensors
    text = _encoder.encode(head)
    if not blobs:
        return text, None
    return b"".join((text, *blobs)), len(text)


def _array(tensor: _Input, binary: memoryview | None, offset: int) -> tuple[Array, int]:
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BadRequestError(
            f"The datatype {tensor.datatype[:20]!r} of input {tensor.name!r} is not supported.",
            remedy=f"Use one of {', '.join(DTYPES)}.",
            subject=tensor.name,
        )
    shape = tensor.shape
    if len(shape) > MAX_RANK or any(size < 1 for size in shape):
        raise BadRequestError(
            f"The shape of input {tensor.name!r} must have at most {MAX_RANK} dimensions, each at least 1.",
            subject=tensor.name,
        )
    count = math.prod(shape)
    size = tensor.parameters.get("binary_data_size") if tensor.parameters else None
    if size is None:
        return _from_json(tensor, dtype, count), offset
    if type(size) is not int or size < 0:
        _wrong_count(tensor.name, shape, f"a binary_data_size of {size!r}")
    return _from_binary(tensor, dtype, count, size, binary, offset), offset + size


def _from_json(tensor: _Input, dtype: np.dtype[Any], count: int) -> Array:
    name, data = tensor.name, tensor.data
    if tensor.parameters and "shared_memory_region" in tensor.parameters:
        raise BadRequestError(
            f"The input {name!r} is in shared memory, which is not supported.",
            remedy="Send the data in the request.",
            subject=name,
        )
    if not data:
        raise BadRequestError(f"The input {name!r} has no data.", subject=name)
    if tensor.datatype == "FP16":
        raise BadRequestError(
            f"The input {name!r} is FP16, which JSON cannot carry.",
            remedy="Send it as binary data, or as FP32 to a model that takes that.",
            subject=name,
        )
    depth = _depth(data)
    if depth not in (1, len(tensor.shape)):
        raise BadRequestError(
            f"The data of input {name!r} must be a flat list, or lists nested {len(tensor.shape)} deep.",
            subject=name,
        )
    try:
        values = _data_decoder(dtype.kind, depth).decode(data)
        with np.errstate(over="ignore"):  # becomes an infinity, which no contract allows
            array = np.array(values, dtype=dtype)
    except (ValueError, OverflowError) as error:
        raise BadRequestError(
            f"The data of input {name!r} is not {tensor.datatype} in its shape: {error}.", subject=name
        ) from error
    if depth > 1 and array.shape != tuple(tensor.shape):
        _wrong_count(name, tensor.shape, f"data of shape {list(array.shape)}")
    if array.size != count:
        _wrong_count(name, tensor.shape, f"{array.size} elements")
    return array.reshape(tensor.shape)


def _from_binary(
    tensor: _Input, dtype: np.dtype[Any], count: int, size: int, binary: memoryview | None, offset: int
) -> Array:
    name = tensor.name
    if binary is None:
        raise BadRequestError(
            f"The input {name!r} has a binary_data_size, and the request no binary part.",
            remedy="Send the header Inference-Header-Content-Length with the size of the JSON part.",
            subject=name,
        )
    if tensor.data:
        raise BadRequestError(f"The input {name!r} has data in JSON and in binary.", subject=name)
    if dtype.kind != "O" and size != count * dtype.itemsize:
        _wrong_count(name, tensor.shape, f"a binary_data_size of {size!r}")
    # A copy of its own: where the tensor starts in the body need not be aligned for its dtype.
    part = bytes(binary[offset : offset + size])
    if len(part) != size:
        raise BadRequestError(f"The binary data of input {name!r} is cut short.", subject=name)
    if dtype.kind == "O":
        try:
            return unpack_texts(part, tensor.shape)
        except ValueError as error:
            raise BadRequestError(
                f"The binary data of input {name!r} is not text: {error}.",
                remedy="Send each element as a little-endian u32 with its size in bytes and its UTF-8.",
                subject=name,
            ) from error
    if dtype.kind == "b":  # any byte but 0 and 1 would be an invalid bool
        flags: Array = np.frombuffer(part, np.uint8) != 0
        return flags.reshape(tensor.shape)
    return np.frombuffer(part, dtype).reshape(tensor.shape)


def _outputs(
    outputs: list[_Output], parameters: dict[str, _Scalar]
) -> tuple[tuple[str, ...], OutputPlan, dict[str, _Scalar]]:
    """The names asked for, how to send them, and the parameters that are the host's to read."""
    binary: dict[str, bool] = {}
    for output in outputs:
        wanted = output.parameters or {}
        for unsupported in ("classification", "shared_memory_region"):
            if wanted.get(unsupported):
                raise BadRequestError(
                    f"The output {output.name!r} asks for {unsupported}, which is not supported.",
                    subject=output.name,
                )
        if output.name in binary:
            raise BadRequestError(f"The output {output.name!r} is asked for twice.", subject=output.name)
        binary[output.name] = _flag(wanted.get("binary_data", parameters.get("binary_data_output", False)))
    plan = OutputPlan(binary, _flag(parameters.get("binary_data_output", False)))
    rest = {key: value for key, value in parameters.items() if key != "binary_data_output"}
    return tuple(binary), plan, rest


def _flag(value: _Scalar) -> bool:
    if not isinstance(value, bool):
        raise BadRequestError(
            "binary_data and binary_data_output must be true or false.", subject="binary_data"
        )
    return value


def _json_data(name: str, datatype: str, array: Array) -> list[Any]:
    if datatype == "FP16":
        raise BadRequestError(
            f"The output {name!r} is FP16, which JSON cannot carry.",
            remedy='Ask for it with the parameter "binary_data": true.',
            subject=name,
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequestError(
            f"The output {name!r} for this input is not finite, which JSON cannot carry.", subject=name
        )
    data: list[Any] = array.ravel().tolist()
    return data


def _depth(data: msgspec.Raw) -> int:
    """How many lists the first element is in."""
    depth = 0
    for byte in memoryview(data)[:256]:
        if byte == 0x5B:
            depth += 1
        elif byte not in _WHITESPACE:
            break
    return depth


@lru_cache(maxsize=64)
def _data_decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    of: Any = {"b": bool, "u": int, "i": int, "f": float | None, "O": str}[kind]
    for _ in range(depth):
        of = list[of]
    return msgspec.json.Decoder(of)


def _wrong_count(name: str, shape: Sequence[int], got: str) -> NoReturn:
    raise BadRequestError(f"The input {name!r} declares shape {list(shape)} and has {got}.", subject=name)
