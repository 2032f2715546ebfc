"""Weight-only quantization for ONNX: weights of matrix products in blocks of 4 or 8 bits, activations in
float outside and int8 inside the product (`accuracy_level` 4).

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, "com.microsoft.MatMulNBits":
each block of `block_size` weights along the input axis has one scale, and, unless symmetric, one zero
point. Devices need ONNX Runtime 1.20 for 4 bits and 1.22 for 8.
"""

from __future__ import annotations

from pathlib import Path

from edgeops.errors import ConfigError
from quantize.onnx_embeddings import quantize_tables
from quantize.onnx_files import read_model, require_work, write_model
from quantize.onnx_graph import op_counts
from quantize.onnx_products import constant_products, plain_products
from quantize.result import Quantized

BITS = (4, 8)
_SYMMETRIC_BITS = (8,)
BLOCK_SIZES = (32, 64, 128)
# Products take int8 activations: the fastest of the levels, and the one that all CPUs have.
ACCURACY_LEVEL = 4
_BLOCK_OP = "MatMulNBits"


def quantize(source: Path, target: Path, *, bits: int = 4, block_size: int = 32) -> Quantized:
    """Writes the ONNX file `target`: `source` with every product by a constant matrix in blocks of `bits`,
    and large embedding tables as 8 bit rows (see `quantize_tables`). Counts are of operators. 8 bits are
    symmetric, which is faster and as good; 4 bits have zero points, which is as fast and better.

    Raises `ConfigError` on arguments that are none of `BITS` and `BLOCK_SIZES`, `ArtifactError` when `source`
    is unfit (see `read_model`), and (`details`: operators before and after) when not every product with a
    constant matrix was quantized.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    if bits not in BITS or block_size not in BLOCK_SIZES:
        raise ConfigError(
            f"Weight-only quantization to {bits} bits in blocks of {block_size} is not supported.",
            remedy=f"Choose bits from {BITS} and a block size from {BLOCK_SIZES}.",
            subject="block_size" if bits in BITS else "bits",
        )
    original = read_model(source)
    before = op_counts(original)
    model = plain_products(original)
    expected = constant_products(model)
    tables = quantize_tables(model)
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=bits,
        block_size=block_size,
        is_symmetric=bits in _SYMMETRIC_BITS,
        accuracy_level=ACCURACY_LEVEL,
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    model = quantizer.model.model
    after = op_counts(model)
    made = after.get(_BLOCK_OP, 0) - before.get(_BLOCK_OP, 0)
    require_work(source.name, made, expected, before, after)
    write_model(target, model)
    arguments = {
        "scheme": "onnx-weight-only",
        "bits": bits,
        "block_size": block_size,
        "symmetric": bits in _SYMMETRIC_BITS,
        "accuracy_level": ACCURACY_LEVEL,
        "products": expected,
        "embedding_lookups": tables,
    }
    return Quantized(arguments, before, after)
