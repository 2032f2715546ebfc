"""ONNX graphs as canonical bytes: the same network gives the same file, and no file tells on its maker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

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
    _sort_opsets(clean)
    for function in clean.functions:
        for described in (function, *function.node):
            described.ClearField("doc_string")
            described.ClearField("metadata_props")
        function.ClearField("value_info")
    for graph in _graphs(clean.graph):
        for field in ("doc_string", "value_info", "metadata_props"):
            graph.ClearField(field)
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        for tensor in graph.initializer:
            _pack(tensor)
            tensor.ClearField("doc_string")
            tensor.ClearField("metadata_props")
        for value in (*graph.input, *graph.output):
            value.ClearField("doc_string")
            value.ClearField("metadata_props")
    onnx.checker.check_model(clean, full_check=True)
    data: bytes = clean.SerializeToString(deterministic=True)
    return data


def prune(model: onnx.ModelProto) -> None:
    """Removes, in place, the nodes and weights that lead to no output of the graph."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            for nested in _graphs_of(node):
                needed.update(name for inner in nested.node for name in inner.input)
                needed.update(value.name for value in nested.output)
            needed.update(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name not in needed]
    for tensor in weights:
        graph.initializer.remove(tensor)
    replace_nodes(graph, kept[::-1])


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Makes `nodes`, some of which may be the graph's own, the nodes of the graph."""
    # Clearing the graph takes what is its own, so those are copied before.
    kept = [copied(node) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(kept)


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy that no graph holds."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes, such as the two branches of an If."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def op_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs, subgraphs included."""
    counts = Counter(node.op_type for graph in _graphs(model.graph) for node in graph.node)
    return dict(sorted(counts.items()))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _graphs_of(node)


def _graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes, and those inside them."""
    for nested in subgraphs(node):
        yield from _graphs(nested)


def _pack(tensor: onnx.TensorProto) -> None:
    """Elements may stand one by one or as raw bytes (texts cannot); that they stand in this file may be
    said or not."""
    if tensor.data_location == onnx.TensorProto.DEFAULT:
        tensor.ClearField("data_location")
    if tensor.HasField("raw_data") or tensor.data_type == onnx.TensorProto.STRING:
        return
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))


def _sort_opsets(model: onnx.ModelProto) -> None:
    """Exporters name domains in any order, and some of them twice."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, 0))
    model.ClearField("opset_import")
    for domain, version in sorted(versions.items()):
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))
