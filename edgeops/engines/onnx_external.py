"""Weights that an ONNX model keeps in files beside itself: where those may lie.

https://onnx.ai/onnx/repo-docs/ExternalData.html. A location is relative to the model's folder. ONNX Runtime
reads what it says, hard links to other people's files included, and has a location of its own that means
an address in memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeops.errors import ArtifactError
from edgeops.manifest import is_safe_path


@dataclass(frozen=True)
class External:
    """A tensor whose `size_bytes` of data lie in another file, and the model's words about where."""

    name: str
    size_bytes: int
    words: Mapping[str, str]


def check_external(model: Path, tensors: Iterable[External], *, allow_links: bool) -> dict[Path, int]:
    """The files that hold `tensors`, with their sizes in bytes.

    Raises `ArtifactError` (subject: the model's name) when a location is absolute or has `..` in it, is
    missing, is no regular file, is a link while those are not allowed, or is too short for what the model
    takes from it.
    """
    sizes: dict[str, int] = {}
    for tensor in tensors:
        location = tensor.words.get("location", "")
        if location not in sizes:
            sizes[location] = _size(model, location, allow_links=allow_links)
        offset = _number(model, tensor, "offset", 0)
        length = _number(model, tensor, "length", tensor.size_bytes)
        if length != tensor.size_bytes:
            raise _refused(model, f"takes {length} bytes for {tensor.name!r}, which has {tensor.size_bytes}")
        if offset + length > sizes[location]:
            raise _refused(model, f"takes data for {tensor.name!r} from beyond the end of {location!r}")
    return {model.parent / location: size for location, size in sizes.items()}


def _size(model: Path, location: str, *, allow_links: bool) -> int:
    if not is_safe_path(location) or "*" in location or ":" in location:
        raise _refused(
            model, f"keeps weights at {location[:200]!r}, which is no plain path in its own folder"
        )
    path = model.parent / location
    try:
        status = path.stat()
        resolved = path.resolve(strict=True)
    except OSError as error:
        raise _refused(
            model, f"keeps weights at {location!r}, which cannot be read ({error.strerror})"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise _refused(model, f"keeps weights at {location!r}, which is not a regular file")
    linked = status.st_nlink > 1 or resolved != model.parent.resolve() / location
    if linked and not allow_links:
        raise _refused(model, f"keeps weights at {location!r}, which is a link")
    if not os.access(path, os.R_OK):
        raise _refused(model, f"keeps weights at {location!r}, which may not be read")
    return status.st_size


def _number(model: Path, tensor: External, word: str, default: int) -> int:
    text = tensor.words.get(word)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _refused(model, f"has the {word} {text[:40]!r} for {tensor.name!r}, which is no number")
    return int(text)


def _refused(model: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"{model.name} {why}.",
        remedy="Put the model and its data into one folder, as plain files, or export it as one file.",
        subject=model.name,
    )
