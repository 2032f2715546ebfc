"""The variants of a recipe, listed or searched for."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgeops.manifest import Target
from toolchain.recipe.base import Positive, Strict

Format = Literal["onnx", "gguf", "mlx"]
Precision = Literal[
    "fp32", "int8", "int4",  # onnx
    "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs",  # gguf
    "8bit", "4bit",  # mlx
]  # fmt: skip
Scheme = Literal["dynamic", "static", "weight-only"]

PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8", "int4"),
    "gguf": ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs"),
    "mlx": ("f16", "8bit", "4bit"),
}


class VariantSpec(Strict, frozen=True, kw_only=True):
    """One variant to make. `memory_budget_mb` (MiB) goes into the manifest as what the engine needs; a
    gate holds the measured memory against it.

    How it is quantized, where the format leaves a choice: `scheme` for ONNX (int8: dynamic, static or
    weight-only; int4 is weight-only), `calibration` for static, `group_size` for weight-only and MLX,
    `imatrix` for GGUF (an importance matrix from the calibration text: made, not made, or kept if it
    measures better on the calibration text)."""

    id: str
    model: str
    precision: Precision
    memory_budget_mb: Positive
    format: Format = "onnx"
    target: Target = "device"
    scheme: Scheme | None = None
    calibration: Literal["minmax", "entropy", "percentile"] | None = None
    group_size: Literal[32, 64, 128] | None = None
    imatrix: Literal["never", "always", "if-better"] = "never"


class Search(Strict, frozen=True, kw_only=True):
    """What `variants: auto` looks for: of `model`, in `formats`, the Pareto front of `metric` (more is
    better; for text generation `top1_agreement`), size and latency, of those that lose at most `max_drop`
    of the metric against the unquantized model. `keep` are variants that stay whatever is found, such as
    the cloud's."""

    model: str
    formats: Annotated[tuple[Format, ...], msgspec.Meta(min_length=1)]
    metric: str
    max_drop: Annotated[float, msgspec.Meta(ge=0)]
    memory_budget_mb: Positive
    max_variants: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3
    keep: tuple[VariantSpec, ...] = ()
