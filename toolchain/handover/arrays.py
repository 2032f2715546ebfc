"""Arrays on disk: `.npz` without pickles. NumPy gives the archive's members a fixed date, so equal arrays
are equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DATA_FILE = "data.npz"
CORPUS_FILE = "corpus.json"
PARTS = ("train", "calibration", "held_out")


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes arrays by name."""
    np.savez(path, allow_pickle=False, **arrays)


def load_arrays(path: Path) -> dict[str, Array]:
    """Reads them. Object arrays, which would need a pickle, are refused (`ValueError`)."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def load_part(folder: Path, part: str) -> tuple[Array, Array]:
    """Inputs and labels of one part of the data: `train`, `calibration` or `held_out`."""
    with np.load(folder / DATA_FILE, allow_pickle=False) as archive:
        return archive[f"{part}_inputs"], archive[f"{part}_labels"]


def load_attributes(folder: Path, part: str) -> dict[str, Array]:
    """The attributes of one part's rows by name: texts of shape (rows,)."""
    prefix = f"{part}_attribute_"
    with np.load(folder / DATA_FILE, allow_pickle=False) as archive:
        return {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}


def load_documents(folder: Path, part: str) -> list[str]:
    """The documents of one part of a language model's data."""
    documents: list[str] = json.loads((folder / CORPUS_FILE).read_bytes())[part]
    return documents


def arrays_digest(arrays: Mapping[str, Array]) -> str:
    """A SHA-256 over names, dtypes, shapes and elements (little endian, row-major), whatever the file."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
