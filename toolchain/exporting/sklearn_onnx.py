"""scikit-learn pipelines to ONNX by skl2onnx: probabilities only, one float32 tensor in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import onnx

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError
from quantize.onnx_graph import prune

OPSET = 17
ML_OPSET = 3


def export_pipeline(estimator: Any, shape: Sequence[int], *, name: str, output: str) -> onnx.ModelProto:
    """A fitted classifier of rows of `shape` as a graph from `name` to `output`. Nulls (NaN) go in as they
    are. The output of predicted labels, which a class number says as well, is dropped.

    Raises `ArtifactError` naming the step that skl2onnx cannot convert.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: onnx.ModelProto = convert_sklearn(
                estimator,
                initial_types=[(name, FloatTensorType([None, *shape]))],
                options={id(estimator): {"zipmap": False}},
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            )
    except Exception as error:
        # Its converters raise many kinds, some of its own, for what they do not know.
        kind = type(estimator).__name__
        raise ArtifactError(
            f"skl2onnx cannot convert this {kind} ({type(error).__name__}: {one_line(error)}).",
            remedy="Use steps that skl2onnx knows: https://onnx.ai/sklearn-onnx/supported.html.",
            subject=kind,
        ) from error
    _only_probabilities(model, output)
    return model


def _only_probabilities(model: onnx.ModelProto, output: str) -> None:
    graph = model.graph
    kept = graph.output[-1]  # labels first, then probabilities
    if kept.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(kept.type.tensor_type.elem_type)
        raise ArtifactError(
            f"skl2onnx gives probabilities of type {kind}, not FLOAT.",
            remedy="Use a classifier whose probabilities come in float32.",
            subject=kept.name,
        )
    classes = kept.type.tensor_type.shape.dim[1].dim_value
    if kept.name != output:
        _rename(graph, output, f"{output}_of_a_step")
        _rename(graph, kept.name, output)
    del graph.output[:]
    graph.output.append(
        onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", classes or None])
    )
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    prune(model)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new
    for tensor in graph.initializer:
        if tensor.name == old:
            tensor.name = new
