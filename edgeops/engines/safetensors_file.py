"""The header of a safetensors file, checked before an engine's own reader is let at the file.

https://github.com/huggingface/safetensors#format: eight bytes with the header's length, the header as JSON
(per tensor its dtype, shape and place), then the data without holes.
"""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeops.canonical import strict_json
from edgeops.errors import ArtifactError

# The reference implementation takes 100 MB; models in use have less than 1 MB in a file.
MAX_HEADER_BYTES = 16 << 20
_MAX_DIMENSIONS = 8
_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorHead:
    """A tensor's dtype, in the format's names (`F32`, `U32`, …), and its shape."""

    dtype: str
    shape: tuple[int, ...]


def safetensors_heads(path: Path) -> dict[str, TensorHead]:
    """The tensors of the file at `path` by name. Reads the header only.

    Raises `ArtifactError` (subject: the file's name) unless it is a safetensors file whose tensors have the
    sizes that they claim, lie one after the other, and fill the file.
    """
    try:
        with path.open("rb") as file:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise _refused(path, "is not a regular file")
            length = int.from_bytes(file.read(8), "little")
            if status.st_size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, status.st_size - 8):
                raise _refused(path, "is no safetensors file, or cut short")
            header = strict_json(file.read(length))
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _refused(path, f"has a header that is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _refused(path, "has a header that is no JSON object")
    header.pop("__metadata__", None)
    places: list[tuple[int, int]] = []
    heads: dict[str, TensorHead] = {}
    for name, entry in header.items():
        head, start, end = _entry(path, name, entry)
        heads[name] = head
        places.append((start, end))
    position = 0
    for start, end in sorted(places):
        if start != position:
            raise _refused(path, "has tensors that overlap, or holes between them")
        position = end
    if position != status.st_size - 8 - length:
        raise _refused(path, f"has {status.st_size - 8 - length} bytes of data, and {position} are claimed")
    return heads


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorHead, int, int]:
    if not isinstance(entry, dict):
        raise _refused(path, f"describes the tensor {name[:80]!r} by no object")
    dtype, shape, offsets = (
        entry.get("dtype"),
        _counts(entry.get("shape")),
        _counts(entry.get("data_offsets")),
    )
    if dtype not in _SIZES:
        raise _refused(path, f"has a tensor {name[:80]!r} of the unknown dtype {str(dtype)[:40]!r}")
    if shape is None or len(shape) > _MAX_DIMENSIONS or offsets is None or len(offsets) != 2:
        raise _refused(path, f"has no valid shape and place for the tensor {name[:80]!r}")
    start, end = offsets
    if end - start != math.prod(shape) * _SIZES[dtype]:
        raise _refused(path, f"has {end - start} bytes for the tensor {name[:80]!r} of shape {list(shape)}")
    return TensorHead(dtype, shape), start, end


def _counts(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value):
        return tuple(value)
    return None


def _refused(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"{path.name} {why}.", remedy="Get the file again, or build the bundle again.", subject=path.name
    )
