"""Steps that go wrong on purpose, in place of those of a plan: what a gate must find."""

from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from toolchain.steps import export_onnx

MODEL = Path("variant") / "model.onnx"


def run(context: Any) -> None:
    """The export, with one weight matrix twenty percent too large: such a file loads, runs, and answers."""
    export_onnx.run(context)
    path = context.out / MODEL
    model = onnx.load(path)
    matrix = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    matrix.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(matrix) * 1.2, matrix.name))
    path.write_bytes(model.SerializeToString(deterministic=True))
