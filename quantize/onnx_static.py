"""Static int8 for ONNX: weights and activations of matrix products and convolutions as integers, by ranges
from calibration.

QDQ form (QuantizeLinear, DequantizeLinear around each product), which ONNX Runtime fuses to integer kernels.
Only products by constants: quantizing all operators took a BERT from .992 to .940, and this kept .992. The
result of a product stays float, since what follows it (a bias, an activation function) is float: rounding
it in between costs quality and gains nothing. A convolution's result is quantized, as its kernel requires.
Weights per channel, in 7 of the 8 bits, for the reason given in `quantize.onnx_dynamic`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from quantize.calibration import DEFAULT_PERCENTILE, Batch, Range, activation_ranges
from quantize.onnx_embeddings import quantize_tables
from quantize.onnx_files import mark_prepared, read_model, require_work, write_model
from quantize.onnx_graph import op_counts
from quantize.onnx_products import PRODUCTS, constant_products, constant_weights, plain_products
from quantize.result import Quantized

OPS = (*PRODUCTS, "Conv")


def quantize(source: Path, target: Path, rows: Sequence[Batch], *, method: str = "minmax") -> Quantized:
    """Writes the ONNX file `target`: `source` with every node of the types `OPS` that has a constant weight
    in int8, and large embedding tables too (see `quantize_tables`). `rows` are batches of input arrays by
    name; `method` as in `activation_ranges`. Counts are of operators.

    Raises `ConfigError` on a method that there is not, `ArtifactError` when `source` is unfit (see
    `read_model`), when `rows` do not fit it, and (`details`: operators before and after) when not every
    such node was quantized.
    """
    original = read_model(source)
    before = op_counts(original)
    model = plain_products(original, keep_gemm=True)
    expected = constant_products(model, OPS)
    if expected:
        nodes = _weighted_nodes(model)
        ranges = activation_ranges(model, _activations(nodes), rows, method=method)
        model = _with_qdq(model, nodes, ranges)
    tables = quantize_tables(model)
    after = op_counts(model)
    require_work(source.name, _quantized_nodes(model), expected, before, after)
    write_model(target, model)
    arguments = {
        "scheme": "onnx-static-int8",
        "op_types_to_quantize": list(OPS),
        "activation_type": "QUInt8",
        "weight_type": "QInt8",
        "per_channel": True,
        "reduce_range": True,
        "calibration": method,
        "percentile": DEFAULT_PERCENTILE if method == "percentile" else None,
        "calibration_rows": sum(_count(batch) for batch in rows),
        "products": expected,
        "embedding_lookups": tables,
    }
    return Quantized(arguments, before, after)


def is_called_for(source: Path) -> bool:
    """Whether convolutions hold most of the weights of the ONNX file `source`: a dynamic scheme would leave
    them as they are. Raises `ArtifactError` when the file is unfit."""
    model = plain_products(read_model(source))
    return constant_weights(model, ("Conv",)) > constant_weights(model, PRODUCTS)


def _with_qdq(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], ranges: Mapping[str, Range]
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

    found = {
        name: TensorData(lowest=np.float32(seen.low), highest=np.float32(seen.high))
        for name, seen in ranges.items()
    }
    mark_prepared(model)
    with tempfile.TemporaryDirectory() as scratch:
        # Ranges that were found before are handed over as a calibration cache.
        cache, path = Path(scratch) / "ranges.json", Path(scratch) / "model.onnx"
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), cache)
        quantize_static(
            model,
            path,
            calibration_cache_path=cache,
            calibrate_method=CalibrationMethod.MinMax,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPS),
            nodes_to_quantize=[node.name for node in nodes],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return onnx.load(path)


def _weighted_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes to quantize, each with a name of its own, which the quantizer asks for."""
    names = Counter(node.name for node in model.graph.node)
    for number, node in enumerate(model.graph.node):
        if not node.name or names[node.name] > 1:
            node.name = f"{node.name or node.op_type}#{number}"
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    return [
        node
        for node in model.graph.node
        if node.op_type in OPS and node.domain in ("", "ai.onnx") and node.input[1] in weights
    ]


def _activations(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    inputs = [node.input[0] for node in nodes]
    results = [node.output[0] for node in nodes if node.op_type == "Conv"]
    return sorted({*inputs, *results})


def _quantized_nodes(model: onnx.ModelProto) -> int:
    """How many nodes of the types `OPS` take both factors from DequantizeLinear."""
    floats = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return sum(1 for node in model.graph.node if node.op_type in OPS and {*node.input[:2]} <= floats)


def _count(batch: Batch) -> int:
    return max(len(array) for array in batch.values())
