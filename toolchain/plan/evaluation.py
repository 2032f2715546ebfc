"""The second half of a plan: evaluation in the target engine, and all that is concluded from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.plan.models import FORMAT_TOOLS
from toolchain.plan.step import Step, model_step, plain, preferred
from toolchain.recipe import Recipe
from toolchain.recipe.evaluation import BASELINE
from toolchain.recipe.variants import VariantSpec


def evaluations(recipe: Recipe, folder: Path, baseline: Path | None) -> Iterator[Step]:
    """One evaluation a variant, and the baseline's if there is one."""
    if recipe.prompts is not None:
        yield _prompts(recipe, folder)
    for variant in recipe.listed:
        yield _evaluate(recipe, variant)
    if baseline is None and recipe.evaluation.baseline is not None:
        baseline = folder / recipe.evaluation.baseline
    if baseline is not None:
        yield from _baseline(recipe, baseline)


def _evaluate(recipe: Recipe, variant: VariantSpec) -> Step:
    return Step(
        name=f"evaluate-{variant.id}",
        module=_evaluator(recipe),
        meaning=f"evaluate {variant.id} in its engine",
        config={
            "variant": variant.id,
            "format": variant.format,
            "precision": variant.precision,
            **_evaluation_config(recipe),
        },
        inputs={
            "data": "data",
            "model": model_step(variant),
            "answers": f"answers-{variant.model}",
            **({"prompts": "prompts"} if recipe.prompts is not None else {}),
        },
        tools=FORMAT_TOOLS[variant.format],
        isolated=True,
        exclusive=True,
    )


def _evaluator(recipe: Recipe) -> str:
    return f"toolchain.steps.evaluate_{'language' if recipe.generates else 'rows'}"


def _evaluation_config(recipe: Recipe) -> dict[str, Any]:
    evaluation = recipe.evaluation
    return {
        "task": recipe.task,
        "input": plain(recipe.input),
        "output": recipe.output,
        "selftest_rows": recipe.selftest.rows,
        "slices": list(evaluation.slices),
        "groups": sorted({gate.group for gate in recipe.gates if gate.group is not None}),
        "behaviours": plain(evaluation.behaviours),
        "robustness": plain(evaluation.robustness),
        "prompts": plain(recipe.prompts),
    }


def _prompts(recipe: Recipe, folder: Path) -> Step:
    prompts = recipe.prompts
    assert prompts is not None
    named = {"system": prompts.system, "chat_template": prompts.chat_template}
    return Step(
        name="prompts",
        module="toolchain.steps.prompts",
        meaning="bring in the prompts",
        config={"prompts": plain(prompts)},
        inputs={"model": f"model-{preferred(recipe).model}"},
        files={role: folder / path for role, path in named.items() if path is not None},
    )


def _baseline(recipe: Recipe, bundle: Path) -> Iterator[Step]:
    """The baseline's preferred variant, as it is in its bundle, on the same rows in the same way."""
    yield Step(
        name=BASELINE,
        module="toolchain.steps.baseline",
        meaning="bring in the baseline",
        config={"task": recipe.task, "name": recipe.name},
        files={"bundle": bundle},
        isolated=True,
    )
    yield Step(
        name=f"evaluate-{BASELINE}",
        module=_evaluator(recipe),
        meaning="evaluate the baseline in its engine",
        config={"variant": BASELINE, "format": None, "precision": None, **_evaluation_config(recipe)},
        inputs={
            "data": "data",
            "model": BASELINE,
            "answers": f"answers-{preferred(recipe).model}",
            **({"prompts": BASELINE} if recipe.prompts is not None else {}),
        },
        tools=FORMAT_TOOLS[preferred(recipe).format],
        isolated=True,
        exclusive=True,
    )


def conclusions(
    recipe: Recipe, created: str, steps: Sequence[Step], search: Mapping[str, Any] | None
) -> Iterator[Step]:
    """What follows once every variant is evaluated. Most of it needs all of them."""
    evaluated = {step.name: step.name for step in steps if step.name.startswith("evaluate-")}
    made = {model_step(variant): model_step(variant) for variant in recipe.listed}
    models = {step.name: step.name for step in steps if step.name.startswith("model-")}
    prompts = {"prompts": "prompts"} if recipe.prompts is not None else {}
    calibrated: dict[str, str] = {}
    if recipe.fallback is not None:
        shipped = preferred(recipe).id
        calibrated = {"calibrate": "calibrate"}
        yield Step(
            name="calibrate",
            module="toolchain.steps.calibrate",
            meaning="find the fallback threshold",
            config={"fallback": plain(recipe.fallback), "variant": shipped},
            inputs={"data": "data", "evaluation": f"evaluate-{shipped}"},
            tools=("numpy", "scipy"),
        )
    yield _reference(recipe, {**evaluated, **calibrated})
    yield Step(
        name="gate",
        module="toolchain.steps.gate",
        meaning="judge the gates",
        config={
            "about": _about(recipe),
            "gates": [plain(gate) for gate in recipe.gates],
            "device_variants": [v.id for v in recipe.listed if v.target == "device"],
            "memory_budget_bytes": {v.id: v.memory_budget_mb << 20 for v in recipe.listed},
        },
        inputs={"data": "data", **models, **calibrated, **evaluated},
    )
    yield Step(
        name="document",
        module="toolchain.steps.document",
        meaning="write the card, the report and the provenance",
        config={
            "recipe": plain(recipe),
            "about": _about(recipe),
            "created": created,
            "search": plain(search),
        },
        inputs={"data": "data", **models, **calibrated, "gate": "gate", **made, **evaluated, **prompts},
        tools=("huggingface_hub",),
        attests=True,
    )
    yield Step(
        name="package",
        module="toolchain.steps.package",
        meaning="put the bundle together",
        config={"recipe": plain(recipe)},
        inputs={
            "data": "data",
            **models,
            **calibrated,
            "reference": "reference",
            "gate": "gate",
            "document": "document",
            **made,
            **evaluated,
            **prompts,
        },
    )


def _about(recipe: Recipe) -> dict[str, Any]:
    """What the evaluation report says of the recipe. A build whose gates fail has a report, too."""
    return {
        "name": recipe.name,
        "version": recipe.version,
        "task": recipe.task,
        "description": recipe.description,
        "limitations": recipe.limitations,
        "preferred": preferred(recipe).id,
        "variants": {v.id: {"target": v.target, "model": v.model} for v in recipe.listed},
        "class_share": {
            name: share
            for name, model in recipe.models.items()
            if (share := dict(getattr(model, "class_share", {})))
        },
    }


def _reference(recipe: Recipe, known: dict[str, str]) -> Step:
    return Step(
        name="reference",
        module="toolchain.steps.reference",
        meaning="make the reference profile and the self-test",
        config={
            "variant": preferred(recipe).id,
            "device_variants": [v.id for v in recipe.listed if v.target == "device"],
            "task": recipe.task,
            "input": plain(recipe.input),
            "output": recipe.output,
            "features": [plain(feature) for feature in recipe.features],
            "selftest": plain(recipe.selftest),
        },
        inputs={"data": "data", **known},
        tools=("numpy",),
    )
