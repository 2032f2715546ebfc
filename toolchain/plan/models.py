"""The first half of a plan: data, models, exports, quantized variants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.plan.step import Step, export_step, model_step, module_of, plain, teacher_of
from toolchain.recipe import Recipe
from toolchain.recipe.models import (
    GgufModel,
    HuggingFaceModel,
    ModelSource,
    OnnxModel,
    PythonModel,
    SklearnModel,
)
from toolchain.recipe.variants import VariantSpec

TORCH = ("numpy", "torch")
TEXT = ("tokenizers",)
TRANSFORMERS = ("transformers", "tokenizers", "safetensors")


def data_steps(recipe: Recipe, folder: Path) -> Iterator[Step]:
    """The data, and the tokenizer if the recipe trains one."""
    data = recipe.data
    yield Step(
        name="data",
        module="toolchain.steps.data",
        meaning="load, check and split the data",
        config={"data": plain(data), "input": plain(recipe.input), "task": recipe.task},
        files={"file": folder / data.file} if data.file is not None else {},
        code=(module_of(data.factory),) if data.factory is not None else (),
        tools=("numpy", "scikit-learn"),
    )
    if recipe.tokenizer is not None:
        yield Step(
            name="tokenizer",
            module="toolchain.steps.tokenizer",
            meaning="train the tokenizer",
            config={
                "tokenizer": plain(recipe.tokenizer),
                "task": recipe.task,
                "chat": recipe.prompts is not None,
            },
            inputs={"data": "data"},
            tools=("numpy", "tokenizers", "transformers"),
        )


def models(recipe: Recipe, name: str, folder: Path) -> Iterator[Step]:
    """The steps that end in `model-<name>`: it holds the model, however it came about."""
    model = recipe.models[name]
    if isinstance(model, PythonModel | HuggingFaceModel) and model.training is not None:
        yield from _trained(recipe, name, model)
        return
    files = {
        role: folder / path
        for role in ("file", "external_data", "folder", "weights", "tokenizer")
        if (path := getattr(model, role, None)) is not None
    }
    factory = getattr(model, "factory", None)
    yield Step(
        name=f"model-{name}",
        module=f"toolchain.steps.import_{_kind(model)}",
        meaning=f"bring in the model {name}",
        config={
            "model": plain(model),
            "task": recipe.task,
            "input": plain(recipe.input),
            "output": recipe.output,
            "names": sorted(files),
        },
        inputs={"data": "data"},
        files=files,
        code=(module_of(factory),) if factory is not None else (),
        tools=_tools(model),
        # What comes from elsewhere may be hostile. A Hugging Face folder is read by torch and safetensors, as
        # by the steps after it: their process has imported them then. Engines get processes of their own.
        foreign=True,
        isolated=not isinstance(model, HuggingFaceModel),
    )


def _trained(recipe: Recipe, name: str, model: PythonModel | HuggingFaceModel) -> Iterator[Step]:
    inputs = {"data": "data"} | ({"tokenizer": "tokenizer"} if recipe.tokenizer is not None else {})
    teacher = teacher_of(recipe, name)
    runs: dict[str, str] = {}
    for seed in model.seeds:
        for kind in ("alone", "distilled") if teacher is not None else ("alone",):
            step = f"train-{name}-{seed}-{kind}"
            runs[f"run-{seed}-{kind}"] = step
            distilled = kind == "distilled"
            involved = [model, recipe.models[teacher]] if distilled and teacher is not None else [model]
            factories = [factory for m in involved if (factory := getattr(m, "factory", None)) is not None]
            yield Step(
                name=step,
                module=f"toolchain.steps.train_{trainer(recipe, model)}",
                meaning=f"train {name}, seed {seed}, {kind}",
                config={
                    "model": plain(model) | {"seeds": [], "distillation": None},
                    "task": recipe.task,
                    "seed": seed,
                    "distillation": plain(model.distillation) if distilled else None,
                    "teacher": plain(recipe.models[teacher]) if distilled and teacher else None,
                    "tokenizer": plain(recipe.tokenizer),
                },
                inputs={**inputs, "teacher": f"model-{teacher}"} if distilled else inputs,
                code=tuple(module_of(factory) for factory in factories),
                tools=_training_tools(model),
            )
    yield Step(
        name=f"model-{name}",
        module="toolchain.steps.choose",
        meaning=f"weigh the runs of {name}",
        config={"seeds": list(model.seeds), "distilled": teacher is not None, "task": recipe.task},
        inputs={"data": "data", **runs},
        tools=("scipy",),
    )


def exports(recipe: Recipe, folder: Path) -> Iterator[Step]:
    """One export for each model and format that some variant needs. MLX quantizes the source itself; its
    export step writes only what the others do beside the model: the answers of the source."""
    seen: set[str] = set()
    for variant in recipe.listed:
        step = export_step(variant)
        if step in seen:
            continue
        seen.add(step)
        yield _export(recipe, variant, step)
    for name in dict.fromkeys(variant.model for variant in recipe.listed):
        yield _answers(recipe, name)


def _export(recipe: Recipe, variant: VariantSpec, name: str) -> Step:
    model = recipe.models[variant.model]
    factory = getattr(model, "factory", None)
    return Step(
        name=name,
        module=f"toolchain.steps.export_{variant.format}",
        meaning=f"export {variant.model} to {variant.format.upper()}",
        config={
            "model": plain(model),
            "task": recipe.task,
            "input": plain(recipe.input),
            "output": recipe.output,
            "name": recipe.name,
        },
        inputs={"data": "data", "model": f"model-{variant.model}"},
        code=(module_of(factory),) if factory is not None else (),
        tools=(*_tools(model), *FORMAT_TOOLS[variant.format]),
        isolated=isinstance(model, OnnxModel | GgufModel),
    )


FORMAT_TOOLS: dict[str, tuple[str, ...]] = {
    "onnx": ("numpy", "onnx", "onnxruntime"),
    "gguf": ("numpy", "gguf", "llama-cpp-python"),
    "mlx": ("numpy", "mlx", "mlx-lm"),
}


def _answers(recipe: Recipe, name: str) -> Step:
    """What the model itself, in the library that it was made with, answers to the held-out rows: every
    variant is held against this."""
    model = recipe.models[name]
    factory = getattr(model, "factory", None)
    return Step(
        name=f"answers-{name}",
        module="toolchain.steps.answers",
        meaning=f"ask {name} itself",
        config={
            "model": plain(model),
            "task": recipe.task,
            "input": plain(recipe.input),
            "output": recipe.output,
            "held_out_tokens": recipe.evaluation.held_out_tokens,
        },
        inputs={"data": "data", "model": f"model-{name}"},
        code=(module_of(factory),) if factory is not None else (),
        tools=_tools(model),
        isolated=isinstance(model, OnnxModel | GgufModel),
    )


def quantized(recipe: Recipe, variant: VariantSpec) -> Iterator[Step]:
    """The step that quantizes the variant, if it is not the export itself."""
    name = model_step(variant)
    if name == export_step(variant):
        return
    yield Step(
        name=name,
        module=f"toolchain.steps.quantize_{variant.format}",
        meaning=f"quantize {variant.id}",
        config={
            **{
                field: plain(getattr(variant, field))
                for field in ("precision", "scheme", "calibration", "group_size", "imatrix")
            },
            "task": recipe.task,
            "input": plain(recipe.input),
            "source": plain(recipe.models[variant.model])["source"],
        },
        inputs={"data": "data", "export": export_step(variant), "model": f"model-{variant.model}"},
        tools=FORMAT_TOOLS[variant.format],
        isolated=variant.format != "onnx",
    )


def trainer(recipe: Recipe, model: PythonModel | HuggingFaceModel) -> str:
    """Which training step fits: `rows` for tensors, `text` for text classifiers, `language` for LMs."""
    if recipe.generates:
        return "language"
    return "rows" if isinstance(model, PythonModel) else "text"


def _kind(model: ModelSource) -> str:
    kind: Any = plain(model)["source"]
    return str(kind)


def _training_tools(model: PythonModel | HuggingFaceModel) -> tuple[str, ...]:
    training = model.training
    several = training is not None and training.device == "auto"
    # In the order of first mention, each once.
    return tuple(dict.fromkeys((*_tools(model), "safetensors", *(("accelerate",) if several else ()))))


def _tools(model: ModelSource) -> tuple[str, ...]:
    match model:
        case PythonModel():
            return TORCH
        case HuggingFaceModel():
            return (*TORCH, *TRANSFORMERS, "optimum", "optimum-onnx")
        case SklearnModel():
            return ("numpy", "scikit-learn", "skl2onnx", "skops")
        case OnnxModel():
            return ("numpy", "onnx", "onnxruntime")
        case GgufModel():
            return ("numpy", "gguf", "llama-cpp-python")
