"""Torch modules to ONNX by torch's TorchScript exporter: its graphs are small, and the newer exporter writes
source paths and source lines into the file."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

OPSET = 17


def export_module(
    module: nn.Module,
    examples: Sequence[torch.Tensor],
    *,
    inputs: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Sequence[str]],
    opset: int = OPSET,
) -> onnx.ModelProto:
    """The module as a graph. `inputs` and `outputs` give each tensor's name and, in order, the names of its
    free dimensions (empty: the dimension is as in the example)."""
    axes = {
        name: {axis: free for axis, free in enumerate(dimensions) if free}
        for name, dimensions in {**inputs, **outputs}.items()
    }
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # The exporter warns of its age, and of Python branches that it follows once: the shapes decide them.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # TracerWarning is one
        path = Path(scratch) / "model.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(examples),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
        )
        return onnx.load(path)


def export_rows(
    module: nn.Module, shape: Sequence[int], *, name: str, output: str, task: str
) -> onnx.ModelProto:
    """A module of rows, input (batch, *shape) float32, as a graph that ends in probabilities. Softmax is
    added here, so that networks return logits, which training needs; for feature extraction nothing is."""
    whole = module if task == "feature-extraction" else nn.Sequential(module, nn.Softmax(dim=1))
    return export_module(
        whole, [torch.zeros(2, *shape)], inputs={name: ["batch"]}, outputs={output: ["batch"]}
    )
