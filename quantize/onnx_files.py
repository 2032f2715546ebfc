"""ONNX files in and out: what quantizers read, and what they leave."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from edgeops.durable import write_atomic
from edgeops.engines.onnx_file import check_onnx_file
from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError
from quantize.onnx_graph import canonical_bytes

# What one protobuf message can hold: https://protobuf.dev/programming-guides/encoding/#size-limit.
MAX_MODEL_BYTES = (2 << 30) - 1


def read_model(source: Path) -> onnx.ModelProto:
    """The graph in `source` with all its weights, those in files beside it too.

    Raises `ArtifactError` (subject: the file's name) when it is no ONNX file, is refused by
    `check_onnx_file`, or is too large for one file.
    """
    summary = check_onnx_file(source, allow_links=False)
    if summary.size_bytes > MAX_MODEL_BYTES:
        raise _too_large(source.name, summary.size_bytes)
    try:
        model = onnx.load(source)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{source.name} cannot be read as an ONNX model ({one_line(error)}).",
            remedy="Export the model again.",
            subject=source.name,
        ) from error
    return model


def write_model(target: Path, model: onnx.ModelProto) -> None:
    """Writes `model` to `target` as one file of canonical bytes.

    Raises `ArtifactError` (subject: the file's name) when it is too large for one file, or no valid model.
    """
    size_bytes = model.ByteSize()
    if size_bytes > MAX_MODEL_BYTES:
        raise _too_large(target.name, size_bytes)
    try:
        data = canonical_bytes(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(
            f"{target.name} is no valid model after quantizing ({one_line(error)}).",
            remedy="Leave this variant out of the recipe.",
            subject=target.name,
        ) from error
    write_atomic(target, data)


def _too_large(name: str, size_bytes: int) -> ArtifactError:
    return ArtifactError(
        f"{name} has {size_bytes} bytes with its weights, and one ONNX file holds {MAX_MODEL_BYTES}.",
        remedy="Use the GGUF or MLX format for a model of this size.",
        subject=name,
        details={"size_bytes": size_bytes},
    )


def require_work(name: str, made: int, expected: int, before: dict[str, int], after: dict[str, int]) -> None:
    """Raises `ArtifactError` unless there was something to do and all of it was done."""
    if expected == 0 or made != expected:
        raise ArtifactError(
            f"Quantizing {name} did not work: {made} of {expected} matrix products were quantized.",
            remedy="Leave this variant out of the recipe, or export the model with plain matrix products.",
            subject=name,
            details={"before": before, "after": after},
        )


def mark_prepared(model: onnx.ModelProto) -> None:
    """Tells ONNX Runtime's quantizers, which else warn, that the graph was brought into form for them. The
    mark does not end up in files, see `canonical_bytes`."""
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnx.quant.pre_process", "onnxruntime.quant"
