"""The MLX export step: a Hugging Face model as an MLX folder in half precision."""

from __future__ import annotations

from quantize import mlx_group
from toolchain.handover.context import StepContext


def run(context: StepContext) -> None:
    """Writes `variant/` and `export.json`: what made it, and its tensors by type."""
    done = mlx_group.convert(context.inputs["model"] / "model", context.out / "variant", bits=None)
    context.write_json("export.json", {"arguments": done.arguments, "tensors": done.after})
