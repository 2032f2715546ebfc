"""Quantizes a Hugging Face model for MLX."""

from __future__ import annotations

from quantize import mlx_group
from toolchain.handover.context import StepContext
from toolchain.steps.quantizing import judged, write_record

BITS = {"8bit": 8, "4bit": 4}
DEFAULT_GROUP = 64


def run(context: StepContext) -> None:
    """Writes `variant/` and `quantization.json`."""
    config = context.config
    with judged(config):
        done = mlx_group.convert(
            context.inputs["model"] / "model",
            context.out / "variant",
            bits=BITS[config["precision"]],
            group_size=config["group_size"] or DEFAULT_GROUP,
        )
    write_record(context, done)
