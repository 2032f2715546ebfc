"""Dynamic int8 for ONNX: weights of matrix products as signed integers, activations quantized at run time.

Only MatMul and Gemm: int8 convolutions of this kind are many times slower than float ones. Weights use 7 of
the 8 bits (`reduce_range`): on x86 without VNNI two u8 × s8 products can overflow their 16-bit sum, and with
7 bits they cannot, so every CPU computes the same integers.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeops.errors import ArtifactError
from quantize.onnx_graph import canonical_bytes, op_counts

SCHEME = "onnx-dynamic-int8"
QUANTIZED_OPS = ("MatMul", "Gemm")
# What the operators above become: https://onnx.ai/onnx/operators/onnx__MatMulInteger.html.
_INTEGER_OP = "MatMulInteger"


@dataclass(frozen=True)
class Quantized:
    """A quantized model, the operator counts before and after, and the arguments that made it."""

    model: bytes
    ops_before: dict[str, int]
    ops_after: dict[str, int]
    arguments: dict[str, object]


def quantize_int8(source: Path) -> Quantized:
    """Quantizes the ONNX file `source`.

    Raises `ArtifactError` (subject: the file's name) when it is no ONNX file, or when not every matrix
    product with constant weights became an integer one: a quantizer that does nothing must not pass for one.
    """
    from google.protobuf.message import DecodeError
    from onnxruntime.quantization import QuantType, quantize_dynamic

    try:
        model = onnx.load(source, load_external_data=False)
    except DecodeError as error:
        raise ArtifactError(
            f"{source.name} is not an ONNX file.", remedy="Export the model again.", subject=source.name
        ) from error
    before, expected = op_counts(model), _constant_products(model)
    arguments: dict[str, object] = {
        "op_types_to_quantize": list(QUANTIZED_OPS),
        "weight_type": "QInt8",
        "per_channel": True,
        "reduce_range": True,
    }
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.onnx"
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=list(QUANTIZED_OPS),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        result = onnx.load(target)
    after = op_counts(result)
    _check_work_done(source.name, expected, before, after)
    return Quantized(canonical_bytes(result), before, after, arguments)


def _constant_products(model: onnx.ModelProto) -> int:
    weights = {tensor.name for tensor in model.graph.initializer}
    return sum(
        1
        for node in model.graph.node
        if node.op_type in QUANTIZED_OPS and len(node.input) > 1 and node.input[1] in weights
    )


def _check_work_done(name: str, expected: int, before: dict[str, int], after: dict[str, int]) -> None:
    made = after.get(_INTEGER_OP, 0) - before.get(_INTEGER_OP, 0)
    if expected == 0 or made != expected:
        raise ArtifactError(
            f"Quantizing {name} did not work: {made} of {expected} matrix products became integer ones.",
            remedy="Drop the int8 variant from the recipe, or export the model with plain matrix products.",
            subject=name,
            details={"ops_before": before, "ops_after": after},
        )
