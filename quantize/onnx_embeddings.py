"""Embedding tables as 8 bit integers with one scale a row, in standard operators.

A Gather on a constant table is the largest weight of many small language models, and the quantizers of
matrix products leave it alone. Each row becomes round(row / s) with s = max|row| / 127, so that a value is
off by at most s / 2, and the lookup becomes Gather, Cast and Mul, which every runtime has. (One scale for a
whole table, as usual tools have it, rounds rows of small values to nothing.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantize.onnx_graph import replace_nodes
from quantize.onnx_products import drop_unused, part_name

# Smaller tables are not worth three operators.
MIN_TABLE_ELEMENTS = 4096
_LEVELS = 127


@dataclass(frozen=True)
class _Table:
    codes: str
    scales: str


def quantize_tables(model: onnx.ModelProto) -> int:
    """Changes every lookup of whole rows in a constant float32 table of at least `MIN_TABLE_ELEMENTS`
    elements, in the graph itself, not in graphs inside nodes. Returns how many it changed; if none, the model
    is as it was."""
    graph = model.graph
    tables = _tables(graph)
    lookups = sum(1 for node in graph.node if _is_lookup(node, tables))
    if not lookups:
        return 0
    made: dict[str, _Table] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if not _is_lookup(node, tables):
            nodes.append(node)
            continue
        name = node.input[0]
        if name not in made:
            made[name] = _encode(graph, name, numpy_helper.to_array(tables[name]))
        nodes.extend(_lookup(node, made[name]))
    replace_nodes(graph, nodes)
    drop_unused(graph)
    return lookups


def _encode(graph: onnx.GraphProto, name: str, table: np.ndarray) -> _Table:
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = (np.where(largest > 0, largest, 1) / _LEVELS).astype(np.float32)
    codes = np.clip(np.rint(table / scales), -_LEVELS, _LEVELS).astype(np.int8)
    result = _Table(codes=f"{name}_rows_int8", scales=f"{name}_row_scales")
    graph.initializer.append(numpy_helper.from_array(codes, result.codes))
    graph.initializer.append(numpy_helper.from_array(scales, result.scales))
    return result


def _lookup(node: onnx.NodeProto, table: _Table) -> list[onnx.NodeProto]:
    output = node.output[0]
    codes, values, scales = f"{output}_codes", f"{output}_values", f"{output}_scales"
    return [
        helper.make_node("Gather", [table.codes, node.input[1]], [codes], name=part_name(node, "codes")),
        helper.make_node("Cast", [codes], [values], name=part_name(node, "cast"), to=onnx.TensorProto.FLOAT),
        helper.make_node("Gather", [table.scales, node.input[1]], [scales], name=part_name(node, "scales")),
        helper.make_node("Mul", [values, scales], [output], name=part_name(node, "rows")),
    ]


def _tables(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) == 2
        and tensor.dims[0] * tensor.dims[1] >= MIN_TABLE_ELEMENTS
    }


def _is_lookup(node: onnx.NodeProto, tables: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or node.input[0] not in tables:
        return False
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return not axes or axes[0] in (0, -2)
