"""ONNX graphs as canonical bytes: the same network gives the same file, and no file tells on its maker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

PRODUCER = "edgeops"


def canonical_bytes(model: onnx.ModelProto) -> bytes:
    """Serializes a copy of `model` without what only describes its making: metadata (exporters write source
    paths and stack traces there), doc strings, intermediate shapes (`value_info`, which a runtime infers
    again), producer and model version. Operators, weights, names, inputs and outputs stay as they are.

    Raises `onnx.checker.ValidationError` if the result is not a valid model.
    """
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    clean.producer_name = PRODUCER
    for field in ("producer_version", "doc_string", "domain", "model_version", "metadata_props"):
        clean.ClearField(field)
    clean.graph.name = "main"
    for graph in _graphs(clean.graph):
        for field in ("doc_string", "value_info", "metadata_props"):
            graph.ClearField(field)
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        for tensor in graph.initializer:
            tensor.ClearField("doc_string")
            tensor.ClearField("metadata_props")
        for value in (*graph.input, *graph.output):
            value.ClearField("doc_string")
            value.ClearField("metadata_props")
    onnx.checker.check_model(clean, full_check=True)
    data: bytes = clean.SerializeToString(deterministic=True)
    return data


def op_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs, subgraphs included."""
    counts = Counter(node.op_type for graph in _graphs(model.graph) for node in graph.node)
    return dict(sorted(counts.items()))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for nested in attribute.graphs:
                    yield from _graphs(nested)
