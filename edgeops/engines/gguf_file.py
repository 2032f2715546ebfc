"""The header of a GGUF file, read by rule and within bounds, before llama.cpp sees the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian. llama.cpp
reads headers too, but some that it accepts abort the process later. So: every length is held against the
file's size and against a limit here; whether the numbers make a model is checked in
edgeops/engines/gguf_model.py. The standard library only; memory and time grow with the header, not the file.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from edgeops.engines.plain_file import plain_file
from edgeops.errors import ArtifactError

MAX_HEADER_BYTES = 1 << 30
MAX_KEYS = 4096
MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 512
MAX_STRING_BYTES = 64 << 20
MAX_ARRAY_ITEMS = 4 << 20
MAX_TENSOR_NAME_BYTES = 63  # llama.cpp's own limit (GGML_MAX_NAME, with the closing zero)
MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 16
_DEFAULT_ALIGNMENT = 32

# enum ggml_type: number → name, elements in a block, bytes of a block. Types that hold weights only.
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}

_STRING, _ARRAY, _BOOL = 8, 9, 7
# enum gguf_type → struct's letter, which is array's too.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

Value: TypeAlias = "int | float | bool | str | array[Any] | list[bytes] | None"


@dataclass(frozen=True)
class Tensor:
    """One tensor: its name, its sizes as GGUF orders them (the length of a row first), the name of its
    type, and where its bytes are in the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """A header. `metadata` has numbers, texts, and arrays: numbers as `array.array`, strings as a list of
    bytes if they were asked for, else None; `counts` has the length of every array."""

    name: str
    version: int
    metadata: Mapping[str, Value]
    counts: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    size_bytes: int

    def tensor_counts(self) -> dict[str, int]:
        """How many tensors there are of each type, by the type's name."""
        return dict(sorted(Counter(tensor.type for tensor in self.tensors.values()).items()))

    def refuse(self, why: str) -> NoReturn:
        """Raises `ArtifactError` about this file."""
        raise _refused(self.name, why)


def read_gguf(path: Path, *, keep: Container[str] = (), allow_links: bool = True) -> GgufFile:
    """The header of the file at `path`. `keep` names the arrays of strings to keep.

    Raises `ArtifactError` (subject: the file's name) unless the whole file is as the format has it: known
    version and types, lengths that fit the file and the limits above, no key or tensor twice, tensors that
    follow each other at the file's alignment and end where the file does. Without `allow_links` a symbolic
    link, or a file with a second name (a hard link), is refused: its content may change behind one's back.
    """
    with plain_file(path, _refused, allow_links=allow_links) as (fd, size_bytes):
        if size_bytes < 24:
            raise _refused(path.name, "is too short for a GGUF file")
        with mmap.mmap(fd, size_bytes, access=mmap.ACCESS_READ) as data:
            return _Reader(path.name, data, keep).read()


class _Reader:
    def __init__(self, name: str, data: mmap.mmap, keep: Container[str]) -> None:
        self._name = name
        self._data = data
        self._keep = keep
        self._size = len(data)
        self._end = min(self._size, MAX_HEADER_BYTES)
        self._at = 0
        self._counts: dict[str, int] = {}

    def read(self) -> GgufFile:
        if self._take(4) != b"GGUF":
            self._refuse("is not a GGUF file")
        version = self._u32()
        if version not in (2, 3):
            self._refuse(f"has the GGUF version {version}, and only 2 and 3 are read")
        tensor_count, key_count = self._u64(), self._u64()
        if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
            self._refuse(f"claims {tensor_count} tensors and {key_count} keys")
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key = self._text(MAX_NAME_BYTES, "a key")
            if not key or key in metadata:
                self._refuse(f"has the key {key!r} twice, or empty")
            metadata[key] = self._value(key)
        tensors = self._tensors(tensor_count, self._alignment(metadata))
        return GgufFile(self._name, version, metadata, self._counts, tensors, self._size)

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or not 8 <= alignment <= _MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            self._refuse(f"has the alignment {alignment!r}")
        return alignment

    def _value(self, key: str) -> Value:
        kind = self._u32()
        if kind == _STRING:
            return self._text(MAX_STRING_BYTES, key)
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            self._refuse(f"has the key {key!r} of type {kind}")
        letter = _SCALARS[kind]
        (value,) = struct.unpack("<" + letter, self._take(struct.calcsize("<" + letter)))
        return bool(value) if kind == _BOOL else value

    def _array(self, key: str) -> array[Any] | list[bytes] | None:
        kind, count = self._u32(), self._u64()
        if count > MAX_ARRAY_ITEMS:
            self._refuse(f"has {count} items in {key!r}")
        self._counts[key] = count
        if kind == _STRING:
            return self._strings(count, keep=key in self._keep)
        if kind not in _SCALARS:
            self._refuse(f"has an array {key!r} of type {kind}")
        values = array(_SCALARS[kind])
        values.frombytes(self._take(count * values.itemsize))
        if struct.pack("=H", 1) != struct.pack("<H", 1):
            values.byteswap()
        return values

    def _strings(self, count: int, *, keep: bool) -> list[bytes] | None:
        """Walks over strings; the loop that the time of reading a vocabulary goes into."""
        kept: list[bytes] = []
        data, at, end, unpack = self._data, self._at, self._end, _U64.unpack_from
        for _ in range(count):
            if at + 8 > end:
                self._refuse("ends within an array")
            start = at + 8
            at = start + unpack(data, at)[0]
            if at > end:
                self._refuse("has a string that goes beyond the file's end")
            if keep:
                kept.append(data[start:at])
        self._at = at
        return kept if keep else None

    def _tensors(self, count: int, alignment: int) -> dict[str, Tensor]:
        heads = []
        for _ in range(count):
            name = self._text(MAX_TENSOR_NAME_BYTES, "a tensor's name")
            dimensions = self._u32()
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                self._refuse(f"has the tensor {name!r} with {dimensions} dimensions")
            shape = tuple(self._u64() for _ in range(dimensions))
            heads.append((name, shape, self._u32(), self._u64()))
        start = _padded(self._at, alignment)
        tensors: dict[str, Tensor] = {}
        expected = 0
        for name, shape, kind, offset in heads:
            if not name or name in tensors:
                self._refuse(f"has the tensor {name!r} twice, or without a name")
            if kind not in TENSOR_TYPES:
                self._refuse(f"has the tensor {name!r} of the unknown type {kind}")
            type_name, block, block_bytes = TENSOR_TYPES[kind]
            if min(shape) < 1 or max(shape) > self._size * block or shape[0] % block:
                self._refuse(f"has the tensor {name!r} of shape {list(shape)}, which {type_name} cannot have")
            if offset != expected:
                self._refuse(f"has the tensor {name!r} at {offset}, and the one before ends at {expected}")
            size_bytes = prod(shape) // block * block_bytes
            if start + offset + size_bytes > self._size:
                self._refuse(f"ends before the tensor {name!r} does")
            expected = _padded(offset + size_bytes, alignment)
            tensors[name] = Tensor(name, shape, type_name, start + offset, size_bytes)
        return tensors

    def _text(self, limit: int, what: str) -> str:
        size = self._u64()
        if size > limit:
            self._refuse(f"has {size} bytes in {what}, more than {limit}")
        data = self._take(size)
        # llama.cpp hands strings on as C has them, so that two may be one up to their first zero.
        if b"\0" in data:
            self._refuse(f"has {what} with a zero in it")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return self._refuse(f"has {what} that is not UTF-8")

    def _u32(self) -> int:
        value: int = _U32.unpack(self._take(4))[0]
        return value

    def _u64(self) -> int:
        value: int = _U64.unpack(self._take(8))[0]
        return value

    def _take(self, size: int) -> bytes:
        at = self._at
        if at + size > self._end:
            self._refuse("ends within its header")
        self._at = at + size
        return self._data[at : at + size]

    def _refuse(self, why: str) -> NoReturn:
        raise _refused(self._name, why)


def _padded(size: int, alignment: int) -> int:
    return (size + alignment - 1) // alignment * alignment


def _refused(name: str, why: str) -> ArtifactError:
    return ArtifactError(f"{name} {why}.", remedy="Fetch it again, or convert the model again.", subject=name)
