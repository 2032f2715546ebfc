"""What is put behind an exported graph, so that the last steps travel with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Smallest norm to divide by, as torch.nn.functional.normalize has it.
_EPSILON = 1e-12


def end_in_probabilities(model: onnx.ModelProto, output: str) -> None:
    """Adds Softmax over the last axis behind the graph's first output, named `output`, and drops others."""
    logits = model.graph.output[0]
    node = helper.make_node("Softmax", [logits.name], [output], name="edgeops/softmax", axis=-1)
    _end(model, [node], output, _dimensions(logits))


def end_in_embedding(model: onnx.ModelProto, output: str, pooling: str) -> None:
    """Pools the graph's first output, tokens of shape (batch, tokens, width), to one vector of length 1 a
    text: the `mean` over tokens that the attention mask shows, or the first token (`cls`).

    Reimers and Gurevych, arXiv:1908.10084, section 3; normalization as torch.nn.functional.normalize.
    """
    tokens = model.graph.output[0]
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "edgeops/axis"))
    graph.initializer.append(numpy_helper.from_array(np.array(_EPSILON, np.float32), "edgeops/epsilon"))
    if pooling == "cls":
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "edgeops/first"))
        pooled = [_node("Gather", [tokens.name, "edgeops/first"], "edgeops/pooled", axis=1)]
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "edgeops/last"))
        pooled = [
            _node("Cast", ["attention_mask"], "edgeops/mask", to=TensorProto.FLOAT),
            _node("Unsqueeze", ["edgeops/mask", "edgeops/last"], "edgeops/shown"),
            _node("Mul", [tokens.name, "edgeops/shown"], "edgeops/kept"),
            _node("ReduceSum", ["edgeops/kept", "edgeops/axis"], "edgeops/sum", keepdims=0),
            _node("ReduceSum", ["edgeops/mask", "edgeops/axis"], "edgeops/count", keepdims=1),
            _node("Div", ["edgeops/sum", "edgeops/count"], "edgeops/pooled"),
        ]
    normed = [
        _reduce_l2(model, "edgeops/pooled", "edgeops/norm"),
        _node("Max", ["edgeops/norm", "edgeops/epsilon"], "edgeops/length"),
        _node("Div", ["edgeops/pooled", "edgeops/length"], output),
    ]
    batch, _, width = _dimensions(tokens)
    _end(model, [*pooled, *normed], output, (batch, width))


def _reduce_l2(model: onnx.ModelProto, value: str, result: str) -> onnx.NodeProto:
    """The axes of ReduceL2 became an input in opset 18."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= 18:
        return _node("ReduceL2", [value, "edgeops/axis"], result, keepdims=1)
    return _node("ReduceL2", [value], result, keepdims=1, axes=[1])


def _end(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], output: str, dimensions: Sequence[str | int]
) -> None:
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, list(dimensions)))


def _dimensions(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


def _node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"edgeops/{op.lower()}/{output}", **attributes)
