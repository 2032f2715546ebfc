"""What is put in front of and behind an exported graph, so that preprocessing and the last steps travel with
the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from toolchain.importing.image_processor import Preprocessing

# Smallest norm to divide by, as torch.nn.functional.normalize has it.
_EPSILON = 1e-12
# The opset from which on Resize can filter when it shrinks (antialias, axes).
RESIZE_OPSET = 18


def end_in_probabilities(model: onnx.ModelProto, output: str) -> None:
    """Adds Softmax over the last axis behind the graph's first output, named `output`, and drops the others."""
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
    graph.initializer.append(numpy_helper.from_array(np.float32(_EPSILON).reshape(()), "edgeops/epsilon"))
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


def begin_with_pixels(model: onnx.ModelProto, steps: Preprocessing, name: str, shape: Sequence[int]) -> None:
    """Puts `steps` in front of the graph's one input, which becomes `name`: pixels 0 to 255 of `shape`.

    Pixels are whole numbers while they are resized, as in Pillow, whose filters ONNX Runtime's Resize on
    uint8 follows to the last bit but one.
    """
    graph = model.graph
    inner = graph.input[0].name
    nodes: list[onnx.NodeProto] = []
    value = name
    if steps.resize is not None:
        _add(graph, "edgeops/darkest", np.float32(0))
        _add(graph, "edgeops/brightest", np.float32(255))
        _add(graph, "edgeops/size", np.array(steps.resize, np.int64))
        nodes += [
            _node("Round", [value], "edgeops/whole"),
            _node("Clip", ["edgeops/whole", "edgeops/darkest", "edgeops/brightest"], "edgeops/clipped"),
            _node("Cast", ["edgeops/clipped"], "edgeops/bytes", to=TensorProto.UINT8),
            _node(
                "Resize",
                ["edgeops/bytes", "", "", "edgeops/size"],
                "edgeops/resized",
                mode=steps.resample,
                antialias=1,
                axes=[2, 3],
                coordinate_transformation_mode="half_pixel",
                cubic_coeff_a=-0.5,
            ),
            _node("Cast", ["edgeops/resized"], "edgeops/pixels", to=TensorProto.FLOAT),
        ]
        value = "edgeops/pixels"
    if steps.crop is not None:
        height, width = steps.resize or (shape[1], shape[2])
        top, left = (height - steps.crop[0]) // 2, (width - steps.crop[1]) // 2
        _add(graph, "edgeops/from", np.array([top, left], np.int64))
        _add(graph, "edgeops/to", np.array([top + steps.crop[0], left + steps.crop[1]], np.int64))
        _add(graph, "edgeops/axes", np.array([2, 3], np.int64))
        nodes.append(_node("Slice", [value, "edgeops/from", "edgeops/to", "edgeops/axes"], "edgeops/cropped"))
        value = "edgeops/cropped"
    # (pixel * scale - mean) / std as one product and one sum of each channel.
    factor = np.array([steps.scale / one for one in steps.std], np.float32).reshape(1, -1, 1, 1)
    offset = np.array([-m / s for m, s in zip(steps.mean, steps.std, strict=True)], np.float32)
    _add(graph, "edgeops/factor", factor)
    _add(graph, "edgeops/offset", offset.reshape(1, -1, 1, 1))
    nodes.append(_node("Mul", [value, "edgeops/factor"], "edgeops/scaled"))
    nodes.append(_node("Add", ["edgeops/scaled", "edgeops/offset"], inner))
    old = [_copy(node) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *old])
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))


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


def _node(op: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"edgeops/{op.lower()}/{output}", **attributes)


def _add(graph: onnx.GraphProto, name: str, value: np.generic | np.ndarray) -> None:  # type: ignore[type-arg]
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
