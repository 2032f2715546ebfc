"""What is wrong with a recipe's variants, and with what it says about the search for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeops.names import is_name
from toolchain.recipe import Recipe
from toolchain.recipe.document import Fault, FieldPath, doubled
from toolchain.recipe.evaluation import AGREEMENT, BASELINE, OWN_QUALITY, metrics_of
from toolchain.recipe.misfits import did_you_mean
from toolchain.recipe.models import GgufModel, HuggingFaceModel, ModelSource
from toolchain.recipe.variants import PRECISIONS, Format, VariantSpec

# llama.cpp's Q8_0 and F16 quantizers take an importance matrix and do not look at it (ggml-quants.c).
_WITHOUT_IMATRIX = ("f16", "q8_0")
_MLX_GROUPS = (32, 64)


def variant_faults(recipe: Recipe) -> Iterator[Fault]:
    """Every fault of `variants` and `search`."""
    if recipe.variants == "auto":
        if recipe.search is None:
            yield Fault(("search",), "is missing: variants are auto, so it must say what to look for")
        else:
            yield from _search_faults(recipe)
        return
    if recipe.search is not None:
        yield Fault(("search",), "is for variants: auto, and the variants are listed")
    if not any(variant.target == "device" for variant in recipe.variants):
        yield Fault(("variants",), "has none for devices")
    yield from list_faults(recipe, recipe.variants, ("variants",))


def fits(model: ModelSource, format: Format, *, generates: bool) -> bool:
    """Whether a model of that source can be brought into the format."""
    if format == "onnx":
        return not isinstance(model, GgufModel)
    if format == "gguf":
        return generates and isinstance(model, HuggingFaceModel | GgufModel)
    return generates and isinstance(model, HuggingFaceModel)


def list_faults(recipe: Recipe, variants: Sequence[VariantSpec], path: FieldPath) -> Iterator[Fault]:
    """Every fault of variants of the recipe's models that stand at `path`."""
    for i, variant in enumerate(variants):
        at = (*path, i)
        if not is_name(variant.id):
            yield Fault((*at, "id"), "is not a valid name (lower-case letters, digits, dots, dashes, …)")
        if variant.id == BASELINE:
            yield Fault((*at, "id"), f"is {BASELINE!r}, which means the bundle to compare with")
        model = recipe.models.get(variant.model)
        if model is None:
            remedy = did_you_mean(variant.model, recipe.models)
            yield Fault((*at, "model"), "is none of the models", remedy)
        elif not fits(model, variant.format, generates=recipe.generates):
            yield Fault((*at, "format"), _unfit(recipe, variant.format))
        yield from _quantization_faults(variant, at)
        if variant.scheme == "static" and recipe.generates:
            yield Fault((*at, "scheme"), "is dynamic or weight-only for text-generation")
        if variant.imatrix != "never" and isinstance(model, GgufModel):
            yield Fault((*at, "imatrix"), "is collected on a huggingface model, and this one is a GGUF file")
    yield from doubled(((*path, i, "id"), variant.id) for i, variant in enumerate(variants))


def _unfit(recipe: Recipe, format: Format) -> str:
    if format == "onnx":
        return "onnx cannot be made of a GGUF file"
    if not recipe.generates:
        return f"{format} is for the task text-generation"
    sources = "huggingface or gguf" if format == "gguf" else "huggingface"
    return f"{format} is made of models whose source is {sources}"


def _quantization_faults(variant: VariantSpec, path: FieldPath) -> Iterator[Fault]:
    known = PRECISIONS[variant.format]
    if variant.precision not in known:
        what = f"is {variant.precision!r}, which {variant.format} has not: it has {', '.join(known)}"
        yield Fault((*path, "precision"), what, did_you_mean(variant.precision, known))
        return
    if variant.scheme is not None:
        yield from _scheme_faults(variant, path)
    if variant.calibration is not None and variant.scheme != "static":
        yield Fault((*path, "calibration"), "is for the scheme static")
    if variant.group_size is not None:
        grouped = variant.precision in ("int4", "8bit", "4bit") or variant.scheme == "weight-only"
        if not grouped:
            yield Fault((*path, "group_size"), "is for weight-only precisions of ONNX, and for those of MLX")
        elif variant.format == "mlx" and variant.group_size not in _MLX_GROUPS:
            yield Fault((*path, "group_size"), "is 32 or 64 for MLX")
    if variant.imatrix != "never" and (variant.format != "gguf" or variant.precision in _WITHOUT_IMATRIX):
        yield Fault((*path, "imatrix"), f"has no effect on {variant.format} {variant.precision}")


def _scheme_faults(variant: VariantSpec, path: FieldPath) -> Iterator[Fault]:
    if variant.format != "onnx" or variant.precision == "fp32":
        yield Fault((*path, "scheme"), "is for the precisions int8 and int4 of ONNX")
    elif variant.precision == "int4" and variant.scheme != "weight-only":
        yield Fault((*path, "scheme"), "is weight-only for int4")


def _search_faults(recipe: Recipe) -> Iterator[Fault]:
    search = recipe.search
    assert search is not None
    model = recipe.models.get(search.model)
    if model is None:
        yield Fault(("search", "model"), "is none of the models", did_you_mean(search.model, recipe.models))
    else:
        for i, format in enumerate(search.formats):
            if not fits(model, format, generates=recipe.generates):
                yield Fault(("search", "formats", i), _unfit(recipe, format))
    yield from doubled((("search", "formats", i), format) for i, format in enumerate(search.formats))
    known = [metric for metric in metrics_of(recipe.task) if metric in OWN_QUALITY + AGREEMENT]
    if search.metric not in known:
        what = f"is {search.metric!r}, which is none of {', '.join(known)}"
        yield Fault(("search", "metric"), what, did_you_mean(search.metric, known))
    yield from list_faults(recipe, search.keep, ("search", "keep"))
