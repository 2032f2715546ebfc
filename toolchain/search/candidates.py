"""The candidates of a search: each way to quantize that the recipe's formats and model allow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolchain.recipe import Recipe
from toolchain.recipe.models import GgufModel
from toolchain.recipe.variants import Format, Search, VariantSpec

ONNX_GROUPS = {"int8": (32, 128), "int4": (32, 64, 128)}
CALIBRATIONS = ("minmax", "entropy", "percentile")
GGUF_PLAIN = ("f16", "q8_0")
GGUF_WITH_IMATRIX = ("q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs")
MLX_GROUPS = (32, 64)
UNQUANTIZED = ("fp32", "f16")


def candidates(recipe: Recipe) -> tuple[VariantSpec, ...]:
    """The candidates by format, in the order of `search.formats`: the unquantized one first, then from the
    simplest to the most elaborate. Their ids say how they are made, and are the same in every search."""
    search = recipe.search
    assert search is not None
    ways = {"onnx": _onnx, "gguf": _gguf, "mlx": _mlx}
    return tuple(
        _spec(search, format, way) for format in search.formats for way in ways[format](recipe, search)
    )


def format_of(candidate: str) -> str:
    """The format of the candidate with that id."""
    return candidate.partition("-")[0]


def _spec(search: Search, format: Format, way: dict[str, Any]) -> VariantSpec:
    details = [
        way.get("scheme") if way["precision"] == "int8" else None,
        way.get("calibration"),
        f"g{way['group_size']}" if "group_size" in way else None,
        "imatrix" if "imatrix" in way else None,
    ]
    name = "-".join(str(part) for part in (format, way["precision"], *details) if part is not None)
    return VariantSpec(
        id=name, model=search.model, format=format, memory_budget_mb=search.memory_budget_mb, **way
    )


def _onnx(recipe: Recipe, search: Search) -> Iterator[dict[str, Any]]:
    yield {"precision": "fp32"}
    yield {"precision": "int8", "scheme": "dynamic"}
    if not recipe.generates:
        for method in CALIBRATIONS:
            yield {"precision": "int8", "scheme": "static", "calibration": method}
    for precision, groups in ONNX_GROUPS.items():
        for group in groups:
            yield {"precision": precision, "scheme": "weight-only", "group_size": group}


def _gguf(recipe: Recipe, search: Search) -> Iterator[dict[str, Any]]:
    for precision in GGUF_PLAIN:
        yield {"precision": precision}
    for precision in GGUF_WITH_IMATRIX:
        yield {"precision": precision}
        # An importance matrix is collected on the model that the file was made from.
        if not isinstance(recipe.models[search.model], GgufModel):
            yield {"precision": precision, "imatrix": "always"}


def _mlx(recipe: Recipe, search: Search) -> Iterator[dict[str, Any]]:
    for precision in ("8bit", "4bit"):
        for group in MLX_GROUPS:
            yield {"precision": precision, "group_size": group}
