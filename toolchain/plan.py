"""The plan: which steps a recipe takes, what each depends on, and in which order they run. Pure.

    data ─► teacher ─► student ─► export ─► quantize ─► evaluate ─► calibrate ─► gate ─► document ─► package
                                                            └─────► reference ──────────────┘

A step's config holds what it needs of the recipe and no more, so that recipes which share a step's config
and inputs (the three digits recipes and their teacher) share its cached output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from toolchain.recipe import Fallback, Recipe, VariantSpec

TORCH = ("numpy", "torch")
ENGINE = ("numpy", "onnxruntime")


@dataclass(frozen=True)
class Step:
    """One step: `module` has `run(context)` (see toolchain/steps/context.py). `inputs` maps a role to
    the step whose output folder fills it. `code` names the recipe's modules and `tools` the distributions
    that the output depends on. `attests`: the step is told how the steps before it were made, and so
    depends on that, not only on what they wrote. `isolated`: it runs in a process of its own."""

    name: str
    module: str
    meaning: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    attests: bool = False
    isolated: bool = False


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each comes after its inputs. The last one makes the unsigned bundle."""

    label: str
    steps: tuple[Step, ...]


def make_plan(recipe: Recipe, *, created: str) -> Plan:
    """The steps of a recipe. `created` (RFC 3339) is the time that its documents bear."""
    data = Step(
        name="data",
        module="toolchain.steps.data",
        meaning="load and split the data",
        config={"data": _plain(recipe.data), "input": _plain(recipe.input)},
        code=(_module(recipe.data.factory),),
        tools=("numpy", "scikit-learn"),
    )
    models = [_teacher(recipe), _student(recipe)]
    exports = [_export(recipe, model) for model in ("teacher", "student")]
    quantized = [_quantize(variant) for variant in recipe.variants if variant.precision == "int8"]
    evaluations = [_evaluate(recipe, variant) for variant in recipe.variants]
    return Plan(
        label=recipe.label,
        steps=(data, *models, *exports, *quantized, *evaluations, *_conclusions(recipe, created)),
    )


def _teacher(recipe: Recipe) -> Step:
    return Step(
        name="teacher",
        module="toolchain.steps.teacher",
        meaning="train the teacher",
        config={"teacher": _plain(recipe.teacher)},
        inputs={"data": "data"},
        code=(_module(recipe.teacher.factory),),
        tools=TORCH,
    )


def _student(recipe: Recipe) -> Step:
    teacher = {"factory": recipe.teacher.factory, "options": recipe.teacher.options}
    return Step(
        name="student",
        module="toolchain.steps.distil",
        meaning="distil the student",
        config={"student": _plain(recipe.student), "teacher": teacher},
        inputs={"data": "data", "teacher": "teacher"},
        code=(_module(recipe.student.factory), _module(recipe.teacher.factory)),
        tools=(*TORCH, "scipy"),
    )


def _export(recipe: Recipe, model: str) -> Step:
    source = recipe.teacher if model == "teacher" else recipe.student
    return Step(
        name=f"export-{model}",
        module="toolchain.steps.export",
        meaning=f"export the {model} to ONNX",
        config={
            "factory": source.factory,
            "options": source.options,
            "input": _plain(recipe.input),
            "output": recipe.output,
        },
        inputs={"data": "data", "model": model},
        code=(_module(source.factory),),
        tools=(*TORCH, "onnx"),
    )


def _quantize(variant: VariantSpec) -> Step:
    return Step(
        name=f"quantize-{variant.id}",
        module="toolchain.steps.quantize",
        meaning=f"quantize {variant.id}",
        config={"scheme": "onnx-dynamic-int8"},
        inputs={"model": f"export-{variant.model}"},
        tools=("numpy", "onnx", "onnxruntime"),
    )


def _evaluate(recipe: Recipe, variant: VariantSpec) -> Step:
    return Step(
        name=f"evaluate-{variant.id}",
        module="toolchain.steps.evaluate",
        meaning=f"evaluate {variant.id} in its engine",
        config={
            "variant": variant.id,
            "precision": variant.precision,
            "input": _plain(recipe.input),
            "output": recipe.output,
            "selftest_rows": recipe.selftest.rows,
        },
        inputs={
            "data": "data",
            "model": model_step(variant),
            "source": f"export-{variant.model}",
        },
        tools=ENGINE,
        isolated=True,
    )


def _calibrate(recipe: Recipe, fallback: Fallback) -> Step:
    shipped = preferred(recipe).id
    return Step(
        name="calibrate",
        module="toolchain.steps.calibrate",
        meaning="find the fallback threshold",
        config={"fallback": _plain(fallback), "variant": shipped},
        inputs={"data": "data", "evaluation": f"evaluate-{shipped}"},
        tools=("numpy",),
    )


def _conclusions(recipe: Recipe, created: str) -> tuple[Step, ...]:
    """What follows once every variant is evaluated. Most of it needs all of them."""
    evaluated = {f"evaluate-{variant.id}": f"evaluate-{variant.id}" for variant in recipe.variants}
    exported = {model_step(variant): model_step(variant) for variant in recipe.variants}
    training = {"data": "data", "teacher": "teacher", "student": "student"}
    shipped = preferred(recipe)
    calibration = [_calibrate(recipe, recipe.fallback)] if recipe.fallback is not None else []
    calibrated = {step.name: step.name for step in calibration}
    reference = Step(
        name="reference",
        module="toolchain.steps.reference",
        meaning="make the reference profile and the self-test",
        config={
            "variant": shipped.id,
            "device_variants": [v.id for v in recipe.variants if v.target == "device"],
            "input": _plain(recipe.input),
            "output": recipe.output,
            "features": [_plain(feature) for feature in recipe.features],
            "selftest": _plain(recipe.selftest),
        },
        inputs={"data": "data", **evaluated},
        tools=("numpy",),
    )
    gate = Step(
        name="gate",
        module="toolchain.steps.gate",
        meaning="judge the gates",
        config={
            "label": recipe.label,
            "gates": [_plain(gate) for gate in recipe.gates],
            "memory_budget_bytes": {v.id: v.memory_budget_mb << 20 for v in recipe.variants},
        },
        inputs={**training, **calibrated, **evaluated},
    )
    document = Step(
        name="document",
        module="toolchain.steps.document",
        meaning="write the card, the report and the provenance",
        config={"recipe": _plain(recipe), "created": created},
        inputs={**training, **calibrated, "gate": "gate", **exported, **evaluated},
        attests=True,
    )
    package = Step(
        name="package",
        module="toolchain.steps.package",
        meaning="put the bundle together",
        config={"recipe": _plain(recipe)},
        inputs={
            "data": "data",
            **calibrated,
            "reference": "reference",
            "gate": "gate",
            "document": "document",
            **exported,
            **evaluated,
        },
    )
    return *calibration, reference, gate, document, package


def model_step(variant: VariantSpec) -> str:
    """The step that writes the variant's model file."""
    return f"quantize-{variant.id}" if variant.precision == "int8" else f"export-{variant.model}"


def preferred(recipe: Recipe) -> VariantSpec:
    """The variant that devices prefer: the first one meant for them."""
    return next(variant for variant in recipe.variants if variant.target == "device")


def _module(factory: str) -> str:
    return factory.partition(":")[0]


def _plain(value: Any) -> Any:
    """As JSON has it, tuples as lists, so that a config equals itself when it is read back."""
    return msgspec.json.decode(msgspec.json.encode(value))
