"""What a worker and its child process say to each other: frames over a socket pair.

A frame is a header and the arrays it names, raw:

    u32  size of the header      (native byte order: both ends are on one machine)
    u64  size of the payload
    header                       MessagePack of one of the messages below
    payload                      the arrays' bytes in the header's order, each at a multiple of 16
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from edgeops import errors
from edgeops.errors import EdgeopsError, InferenceError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import Array

_PREFIX = struct.Struct("=IQ")
_ALIGNMENT = 16


class ArrayHead(msgspec.Struct, frozen=True):
    """Name, numpy dtype and shape of one array in the payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]


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


def heads_of(arrays: Mapping[str, Array]) -> tuple[ArrayHead, ...]:
    """The heads of `arrays`, in their order."""
    return tuple(ArrayHead(name, array.dtype.str, array.shape) for name, array in arrays.items())


def send_frame(channel: socket.socket, message: Message, arrays: Mapping[str, Array] | None = None) -> None:
    """Sends one frame. Raises `OSError` when the other end is gone, `TimeoutError` when it does not read."""
    header = _encoder.encode(message)
    parts: list[bytes | memoryview] = [b"", header]
    size = 0
    for array in (arrays or {}).values():
        padding = -size % _ALIGNMENT
        parts.append(bytes(padding))
        parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        size += padding + array.nbytes
    parts[0] = _PREFIX.pack(len(header), size)
    if size <= 1 << 16:
        channel.sendall(b"".join(parts))
        return
    for part in parts:
        channel.sendall(part)


def receive_frame(channel: socket.socket) -> tuple[Message, dict[str, Array]]:
    """The next frame: its message, and its arrays by name. The arrays are writable and aligned.

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
            count = int(np.prod(head.shape, dtype=np.int64))
            flat = np.frombuffer(payload, dtype, count, offset)
            arrays[head.name] = flat.reshape(head.shape)
            offset += flat.nbytes
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
