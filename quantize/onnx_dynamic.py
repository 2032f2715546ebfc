"""Dynamic int8 for ONNX: weights of matrix products as signed integers, activations quantized at run time.

Only matrix products: int8 convolutions of this kind are many times slower than float ones. Per output
channel, since channels differ in size. Weights use 7 of the 8 bits (`reduce_range`): on x86 without VNNI two
u8 × s8 products can overflow their 16-bit sum, and with 7 bits they cannot, so every CPU computes the same
integers. What is quantized is the same for Gemm, MatMul and shared weights, see `plain_products`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from quantize.onnx_embeddings import quantize_tables
from quantize.onnx_files import mark_prepared, read_model, require_work, write_model
from quantize.onnx_graph import op_counts
from quantize.onnx_products import constant_products, plain_products
from quantize.result import Quantized

# What a product becomes: https://onnx.ai/onnx/operators/onnx__MatMulInteger.html.
_INTEGER_OP = "MatMulInteger"


def quantize(source: Path, target: Path) -> Quantized:
    """Writes the ONNX file `target`: `source` with every product by a constant matrix in int8, and large
    embedding tables too (see `quantize_tables`). Counts are of operators.

    Raises `ArtifactError` when `source` is unfit (see `read_model`), and (`details`: operators before and
    after) when not every product with a constant matrix became an integer one.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    original = read_model(source)
    before = op_counts(original)
    model = plain_products(original)
    expected = constant_products(model)
    tables = quantize_tables(model)
    mark_prepared(model)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        if expected:
            quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
            model = onnx.load(path)
    after = op_counts(model)
    made = after.get(_INTEGER_OP, 0) - before.get(_INTEGER_OP, 0)
    require_work(source.name, made, expected, before, after)
    write_model(target, model)
    arguments = {
        "scheme": "onnx-dynamic-int8",
        "op_types_to_quantize": ["MatMul"],
        "weight_type": "QInt8",
        "per_channel": True,
        "reduce_range": True,
        "products": expected,
        "embedding_lookups": tables,
    }
    return Quantized(arguments, before, after)
