"""The quantize step: an exported model in fewer bits."""

from __future__ import annotations

from edgeops.errors import ConfigError
from quantize.onnx_int8 import SCHEME, quantize_int8
from toolchain.steps.context import StepContext

MODEL_FILE = "model.onnx"


def run(context: StepContext) -> None:
    """Writes `model.onnx`, and `quantization.json`: the scheme, its arguments, operators before and after."""
    scheme = context.config["scheme"]
    if scheme != SCHEME:
        raise ConfigError(f"There is no quantization scheme {scheme!r}.", subject=scheme)
    result = quantize_int8(context.inputs["model"] / MODEL_FILE)
    (context.out / MODEL_FILE).write_bytes(result.model)
    context.write_json(
        "quantization.json",
        {
            "scheme": scheme,
            "arguments": result.arguments,
            "ops_before": result.ops_before,
            "ops_after": result.ops_after,
        },
    )
