"""Tries the candidates: quantizes and evaluates each by the very steps of a build, which finds them again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgeops.errors import ArtifactError
from edgeops.manifest import MEASUREMENTS_FILE
from toolchain.evaluation.report import EVALUATION_FILE, read_evaluation
from toolchain.plan import Plan, make_plan
from toolchain.recipe import Recipe
from toolchain.recipe.variants import VariantSpec
from toolchain.running.runner import Outcome
from toolchain.search.choose import Trial

# Runs a plan, or what of it is not cached, and raises what its first step that failed raised.
Run = Callable[[Plan], Outcome]


def try_all(recipe: Recipe, folder: Path, specs: Sequence[VariantSpec], run: Run) -> tuple[Trial, ...]:
    """Tries each of `specs`. `folder` is where the recipe's relative paths begin.

    What all of them need (data, training, exports) comes first, and what goes wrong there is raised. A
    candidate whose quantizer or engine then refuses it with an `ArtifactError` is a trial with a `refusal`.
    """
    trial_recipe = msgspec.structs.replace(recipe, variants=tuple(specs))
    plan = make_plan(trial_recipe, folder=folder, created="")
    own = {f"{kind}-{spec.id}" for spec in specs for kind in ("quantize", "evaluate")}
    evaluations = [f"evaluate-{spec.id}" for spec in specs]
    run(Plan(plan.label, tuple(s for s in _needed(plan, evaluations).steps if s.name not in own)))
    return tuple(_try(spec, _needed(plan, [f"evaluate-{spec.id}"]), run) for spec in specs)


def _try(spec: VariantSpec, plan: Plan, run: Run) -> Trial:
    try:
        outcome = run(plan)
    except ArtifactError as error:
        return Trial(variant=spec, refusal=f"refused: {error.message.rstrip('.')}")
    made = outcome.entries[f"evaluate-{spec.id}"].folder
    return Trial(
        variant=spec,
        evaluation=read_evaluation(json.loads((made / EVALUATION_FILE).read_bytes())),
        measurements=json.loads((made / MEASUREMENTS_FILE).read_bytes()),
    )


def _needed(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan's part that the steps of those names take, themselves included."""
    by_name = {step.name: step for step in plan.steps}
    wanted, needed = list(names), set[str]()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted += by_name[name].inputs.values()
    return Plan(plan.label, tuple(step for step in plan.steps if step.name in needed))
