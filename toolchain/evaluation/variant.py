"""A variant folder as the engines want it: a `Variant` whose first file is the one that the engine opens."""

from __future__ import annotations

from pathlib import Path

from edgeops.canonical import sha256_file
from edgeops.errors import ArtifactError
from edgeops.manifest import FileEntry, Runtime, Variant
from toolchain.recipe.variants import Format

_LEAST_BYTES = 2 << 30
_TIMES_FILE = 6  # a half-precision file in full, with what converting it takes
VARIANT_FOLDER = "variant"
# The file that each format's engine opens, and the engine with the oldest version that can.
MODEL_FILES: dict[Format, str] = {"onnx": "model.onnx", "gguf": "model.gguf", "mlx": "model.safetensors"}
RUNTIMES: dict[Format, Runtime] = {
    "onnx": Runtime(engine="onnxruntime", min_version="1.22"),
    "gguf": Runtime(engine="llama.cpp", min_version="0.3.16"),
    "mlx": Runtime(engine="mlx", min_version="0.29"),
}


def read_variant(folder: Path, *, variant_id: str, format: Format, precision: str) -> Variant:
    """The variant in the folder. Raises `ArtifactError` if the file that the engine opens is not there."""
    first = folder / MODEL_FILES[format]
    if not first.is_file():
        raise ArtifactError(
            f"{variant_id} has no {first.name}.",
            remedy="Look at the step that made it.",
            subject=variant_id,
        )
    others = sorted(path for path in folder.rglob("*") if path.is_file() and path != first)
    return Variant(
        id=variant_id,
        format=format,
        precision=precision,
        files=tuple(_entry(folder, path) for path in (first, *others)),
        runtime=RUNTIMES[format],
        memory_bytes=0,
    )


def size_bytes(variant: Variant) -> int:
    """The sizes of all its files together: what a device fetches."""
    return sum(entry.size_bytes for entry in variant.files)


def _entry(folder: Path, path: Path) -> FileEntry:
    return FileEntry(
        path=path.relative_to(folder).as_posix(), sha256=sha256_file(path), size_bytes=path.stat().st_size
    )


def memory_limit_bytes(variant: Variant, held_bytes: int) -> int:
    """What a process that evaluates the variant may take, which also holds `held_bytes` of data: a graph may
    ask for any amount when it runs, and what a small file asks for cannot be much in earnest."""
    return _LEAST_BYTES + _TIMES_FILE * size_bytes(variant) + 3 * held_bytes
