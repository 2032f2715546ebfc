"""The export step: a trained torch module becomes an ONNX graph that ends in class probabilities."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from edgeops.errors import ArtifactError
from quantize.onnx_graph import canonical_bytes, op_counts
from toolchain.steps.arrays import load_part, save_arrays
from toolchain.steps.context import StepContext
from toolchain.steps.training import build, load_weights, logits_of, make_deterministic

MODEL_FILE = "model.onnx"
SOURCE_OUTPUTS_FILE = "source_outputs.npz"
OPSET = 17


def run(context: StepContext) -> None:
    """Writes `model.onnx`; `source_outputs.npz`, torch's own probabilities on the held-out rows, which the
    evaluation holds the engine's against; and `export.json`."""
    make_deterministic()
    config = context.config
    module = build(config, seed=0)
    load_weights(module, context.inputs["model"])
    held_out, _ = load_part(context.inputs["data"], "held_out")
    probabilities = torch.softmax(logits_of(module, held_out), dim=1)
    classes = len(context.read_json("data", "data.json")["classes"])
    if tuple(probabilities.shape) != (len(held_out), classes):
        raise ArtifactError(
            f"{config['factory']} returns logits of shape {tuple(probabilities.shape[1:])} a row, and the "
            f"data has {classes} classes.",
            remedy="Correct the network's last layer.",
            subject=config["factory"],
        )
    model = _to_onnx(module, config["input"], config["output"])
    (context.out / MODEL_FILE).write_bytes(canonical_bytes(model))
    save_arrays(context.out / SOURCE_OUTPUTS_FILE, {"probabilities": probabilities.numpy()})
    context.write_json("export.json", {"opset": OPSET, "ops": op_counts(model)})


def _to_onnx(module: nn.Module, contract: dict[str, Any], output: str) -> onnx.ModelProto:
    """Torch's TorchScript exporter: its graphs are small, and the newer one writes source paths and source
    lines into the file. Softmax is added here, so that networks return logits, which training needs."""
    example = torch.zeros(2, *contract["shape"])
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        path = Path(scratch) / MODEL_FILE
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            nn.Sequential(module, nn.Softmax(dim=1)).eval(),
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[contract["name"]],
            output_names=[output],
            dynamic_axes={contract["name"]: {0: "batch"}, output: {0: "batch"}},
        )
        return onnx.load(path)
