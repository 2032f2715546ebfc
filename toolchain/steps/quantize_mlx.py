"""Quantizes a Hugging Face model for MLX."""

from __future__ import annotations

from quantize import mlx_group
from toolchain.steps.context import StepContext

BITS = {"8bit": 8, "4bit": 4}
DEFAULT_GROUP = 64


def run(context: StepContext) -> None:
    """Writes `variant/` and `quantization.json`."""
    config = context.config
    done = mlx_group.convert(
        context.inputs["model"] / "model",
        context.out / "variant",
        bits=BITS[config["precision"]],
        group_size=config["group_size"] or DEFAULT_GROUP,
    )
    context.write_json(
        "quantization.json", {"arguments": done.arguments, "before": done.before, "after": done.after}
    )
