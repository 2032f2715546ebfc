"""The weights of a Hugging Face folder: safetensors, in one file or in shards, read tensor by tensor.

Pickles (`*.bin`, `*.pt`) run whatever their author wrote into them, so they are never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FLOATS = {"F32", "F16", "BF16"}
_MAX_JSON_BYTES = 256 << 20


class Weights:
    """The tensors of a folder by name: `types` says how each is stored (`F32`, `F16` or `BF16`)."""

    def __init__(self, files: dict[str, Any], where: dict[str, str], types: dict[str, str]) -> None:
        self._files = files
        self._where = where
        self.types = types

    def read(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The tensor in float32. Raises `ArtifactError` on another shape or values not finite."""
        file = self._where[name]
        found = tuple(self._files[file].get_slice(name).get_shape())
        if found != shape:
            raise _refused(
                file, f"holds {name} of shape {list(found)}, and config.json makes it {list(shape)}"
            )
        values = np.asarray(self._files[file].get_tensor(name)).astype(np.float32)
        if not np.isfinite(values).all():
            raise _refused(file, f"holds {name} with values that are not finite")
        return values


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """Opens the folder's safetensors files.

    Raises `ArtifactError`, naming the file, when there are none (or pickles instead), when one is damaged,
    or when a shard does not hold what the index says; and on tensors of other types than F32, F16, BF16.
    """
    import ml_dtypes  # noqa: F401 - lets numpy hold bfloat16; onnx brings it along
    from safetensors import SafetensorError, safe_open

    expected = _index(folder)
    files: dict[str, Any] = {}
    where: dict[str, str] = {}
    types: dict[str, str] = {}
    with ExitStack() as stack:
        for name in sorted(set(expected.values()) if expected is not None else {_SINGLE}):
            try:
                files[name] = stack.enter_context(safe_open(folder / name, framework="numpy"))
            except (SafetensorError, OSError) as error:
                raise _refused(name, f"cannot be read as safetensors ({one_line(error)})") from error
            for tensor in files[name].keys():  # noqa: SIM118 - it is no mapping
                kind = files[name].get_slice(tensor).get_dtype()
                if kind not in _FLOATS:
                    raise _refused(
                        name, f"holds {tensor} as {kind}, not as one of {', '.join(sorted(_FLOATS))}"
                    )
                if tensor in where:
                    raise _refused(name, f"holds {tensor}, and so does {where[tensor]}")
                where[tensor], types[tensor] = name, kind
        if expected is not None and expected != where:
            odd = sorted(set(expected.items()) ^ set(where.items()))[0][0]
            raise _refused(_INDEX, f"does not fit the shards: see {odd}")
        yield Weights(files, where, types)


def _index(folder: Path) -> dict[str, str] | None:
    """Which file holds each tensor, or None for a single file."""
    if (folder / _SINGLE).is_file():
        return None
    path = folder / _INDEX
    if not path.is_file():
        pickles = sorted(each.name for pattern in ("*.bin", "*.pt", "*.pth") for each in folder.glob(pattern))
        if pickles:
            raise ArtifactError(
                f"{pickles[0]} is a pickle, which can run code, and is not read.",
                remedy="Save the model again as safetensors (save_pretrained with safe_serialization).",
                subject=pickles[0],
            )
        raise _refused(_SINGLE, "is missing")
    index = read_json(path)
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise _refused(_INDEX, "has no weight_map")
    for tensor, name in found.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise _refused(_INDEX, f"puts {tensor} into {name!r}, which is not a safetensors file beside it")
    return dict(found)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the folder; `ArtifactError` when there is none."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise _refused(path.name, f"is larger than {_MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes(), object_pairs_hook=_no_duplicates)
    except FileNotFoundError as error:
        raise _refused(path.name, "is missing") from error
    except OSError as error:
        raise _refused(path.name, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _refused(path.name, f"is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise _refused(path.name, "is not a JSON object")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _refused(file: str, why: str) -> ArtifactError:
    return ArtifactError(f"{file} {why}.", remedy="Save the model again with save_pretrained.", subject=file)
