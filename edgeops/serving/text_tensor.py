"""Tensors of text: numpy arrays of dtype object whose elements are `str`. As bytes they are what Triton's
binary tensor data extension says of BYTES: each element a little-endian u32 with its size, then its UTF-8,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeops.serving.host import Array

SIZE_BYTES = 4


def text_array(texts: Sequence[str], shape: Sequence[int] | None = None) -> Array:
    """An array of these texts, of shape (texts,) or of `shape`, which must have as many elements."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array if shape is None else array.reshape(tuple(shape))


def pack_texts(array: Array) -> bytes:
    """The elements in row-major order as bytes. Raises `TypeError` on one that is no `str`, and `ValueError`
    on one that has no UTF-8 form (half a surrogate pair) or is larger than the format can say."""
    parts: list[bytes] = []
    for text in array.flat:
        if not isinstance(text, str):
            raise TypeError(f"an element is {type(text).__name__}, not text")
        data = text.encode()
        if len(data) >= 1 << 32:
            raise ValueError("a text is larger than 4 GiB")
        parts += (len(data).to_bytes(SIZE_BYTES, "little"), data)
    return b"".join(parts)


def unpack_texts(data: bytes | bytearray | memoryview, shape: Sequence[int]) -> Array:
    """The array of `shape` in `data`. Raises `ValueError` when it holds more or fewer elements, is cut
    short, or an element is not UTF-8."""
    view, at = memoryview(data), 0
    texts: list[str] = []
    while at < len(view):
        start = at + SIZE_BYTES
        size = int.from_bytes(view[at:start], "little")
        if start > len(view) or size > len(view) - start:
            raise ValueError("it is cut short")
        at = start + size
        texts.append(str(view[start:at], "utf-8"))
    array = text_array(texts)
    if array.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"it has {array.size} elements, and its shape is {list(shape)}")
    return array.reshape(tuple(shape))
