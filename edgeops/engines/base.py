"""One interface over ONNX Runtime, llama.cpp and MLX.

Engines are native code: a file that passes its digest can still abort the process. So nothing that
must survive loads one in its own process: the agent has serving processes, and the toolchain and the
hub use `edgeops.engines.worker`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgeops.errors import ArtifactError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import Array


class Engine(Protocol):
    """A loaded variant. Not thread-safe unless an implementation says so."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The graph's inputs, in order."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The graph's outputs, in order."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Inputs must have the right names, dtypes and ranks
        (`BadRequestError`); what the engine itself fails on is an `InferenceError`."""

    def close(self) -> None:
        """Frees what the engine holds. Safe to call twice."""


def load_engine(variant: Variant, bundle_dir: Path, *, threads: int = 1) -> Engine:
    """Loads a variant's files (verified by the caller) into this process.

    Raises `ArtifactError` when the engine refuses the file, `ConfigError` when the engine's library
    is missing or older than `variant.runtime.min_version`.
    """
    if variant.format == "onnx":
        from edgeops.engines.onnx_engine import OnnxEngine

        return OnnxEngine.load(variant, bundle_dir, threads=threads)
    raise ArtifactError(
        f"Variant {variant.id!r} has the format {variant.format!r}, which no engine here can load.",
        remedy="Choose a variant in the ONNX format.",
        subject=variant.id,
    )
