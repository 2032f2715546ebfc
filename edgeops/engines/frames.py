"""What a worker and its child process say to each other: frames over a socket pair.

A frame is a header and the arrays it names, raw:

    u32  size of the header      (native byte order: both ends are on one machine)
    u64  size of the payload
    header                       MessagePack of one of the messages below
    payload                      the arrays' bytes in the header's order, each at a multiple of 16;
                                 texts as `edgeops.serving.text_tensor` packs them
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeops import errors
from edgeops.errors import BadRequestError, EdgeopsError, InferenceError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import Array
from edgeops.serving.text_tensor import pack_texts, unpack_texts

_PREFIX = struct.Struct("=IQ")
_ALIGNMENT = 16


class ArrayHead(msgspec.Struct, frozen=True):
    """Name, numpy dtype, shape and size in bytes of one array in the payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


class Load(msgspec.Struct, frozen=True, tag=True):
    """To the child, first: load this variant."""

    variant: Variant
    bundle_dir: str
    threads: int


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """From the child: the graph's interface."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Run(msgspec.Struct, frozen=True, tag=True):
    """To the child: run these inputs."""

    arrays: tuple[ArrayHead, ...]


class Answer(msgspec.Struct, frozen=True, tag=True):
    """From the child: the outputs."""

    arrays: tuple[ArrayHead, ...]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From the child: `error` as `EdgeopsError.to_dict()` has it."""

    error: dict[str, Any]


Message = Load | Loaded | Run | Answer | Failed

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def send_frame(channel: socket.socket, message: Message) -> None:
    """Sends a message that has no arrays. Raises as `send_arrays` does."""
    _send(channel, _encoder.encode(message), ())


def send_arrays(channel: socket.socket, kind: type[Run | Answer], arrays: Mapping[str, Array]) -> None:
    """Sends a message that carries arrays.

    Raises `OSError` when the other end is gone, `TimeoutError` when it does not read; `BadRequestError`
    (subject: the array) before anything is sent, when an element of a text array is no Unicode text.
    """
    blobs = [(name, array, _bytes_of(name, array)) for name, array in arrays.items()]
    heads = tuple(ArrayHead(name, array.dtype.str, array.shape, len(blob)) for name, array, blob in blobs)
    _send(channel, _encoder.encode(kind(heads)), [blob for _, _, blob in blobs])


def _bytes_of(name: str, array: Array) -> bytes | memoryview:
    if array.dtype != object:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    try:
        return pack_texts(array)
    except (TypeError, ValueError) as error:
        raise BadRequestError(f"The tensor {name!r} is not text: {error}.", subject=name) from error


def _send(channel: socket.socket, header: bytes, blobs: Sequence[bytes | memoryview]) -> None:
    parts: list[bytes | memoryview] = [b"", header]
    size = 0
    for blob in blobs:
        padding = -size % _ALIGNMENT
        parts += (bytes(padding), blob)
        size += padding + len(blob)
    parts[0] = _PREFIX.pack(len(header), size)
    if size <= 1 << 16:
        channel.sendall(b"".join(parts))
        return
    for part in parts:
        channel.sendall(part)


def receive_frame(channel: socket.socket) -> tuple[Message, dict[str, Array]]:
    """The next frame: its message, and its arrays by name. Arrays of numbers are writable and aligned.

    Raises `EOFError` when the other end is gone, `TimeoutError` when it does not send.
    """
    header_size, size = _PREFIX.unpack(_exactly(channel, _PREFIX.size))
    message: Message = _decoder.decode(_exactly(channel, header_size))
    payload = _exactly(channel, size)
    arrays: dict[str, Array] = {}
    if isinstance(message, Run | Answer):
        offset = 0
        for head in message.arrays:
            offset += -offset % _ALIGNMENT
            dtype = np.dtype(head.dtype)
            if dtype.hasobject:
                part = memoryview(payload)[offset : offset + head.size_bytes]
                arrays[head.name] = unpack_texts(part, head.shape)
            else:
                count = int(np.prod(head.shape, dtype=np.int64))
                arrays[head.name] = np.frombuffer(payload, dtype, count, offset).reshape(head.shape)
            offset += head.size_bytes
    return message, arrays


def error_of(failed: Failed) -> EdgeopsError:
    """The error that the child reported, of its own class."""
    error = failed.error
    kinds = {
        value.kind: value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, EdgeopsError)
    }
    kind = kinds.get(error["kind"], InferenceError)
    return kind(
        error["message"], remedy=error["remedy"], subject=error["subject"], details=error["details"] or {}
    )


def _exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        count = channel.recv_into(view[have:])
        if count == 0:
            raise EOFError
        have += count
    return data
