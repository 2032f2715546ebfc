"""What is wrong with how a recipe judges its variants: cases, prompts, fallback, gates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolchain.recipe import Recipe
from toolchain.recipe.document import Fault, FieldPath, doubled
from toolchain.recipe.evaluation import BASELINE, RATES, SLICED, SLICED_BY_CLASS, Gate, metrics_of
from toolchain.recipe.misfits import did_you_mean

_ONE_CLASS_A_ROW = ("image-classification", "tabular-classification", "text-classification")


def evaluation_faults(recipe: Recipe) -> Iterator[Fault]:
    """Every fault of `evaluation`, `prompts` and `fallback`."""
    evaluation = recipe.evaluation
    for i, attribute in enumerate(evaluation.slices):
        if not attribute.strip() or "=" in attribute:
            yield Fault(("evaluation", "slices", i), "is not the name of an attribute")
    yield from doubled((("evaluation", "slices", i), name) for i, name in enumerate(evaluation.slices))
    if evaluation.slices and recipe.generates:
        yield Fault(("evaluation", "slices"), "are for labelled rows, and text-generation has none")
    yield from _behaviour_faults(recipe)
    yield from _robustness_faults(recipe)
    yield from _prompt_faults(recipe)
    yield from _fallback_faults(recipe)


def _behaviour_faults(recipe: Recipe) -> Iterator[Fault]:
    behaviours = recipe.evaluation.behaviours
    if behaviours and recipe.task in ("feature-extraction", "text-generation"):
        yield Fault(("evaluation", "behaviours"), f"expect a class, and {recipe.task} gives none")
        return
    for i, behaviour in enumerate(behaviours):
        what = _input_fault(recipe, behaviour.input)
        if what is not None:
            yield Fault(("evaluation", "behaviours", i, "input"), what)
    yield from doubled((("evaluation", "behaviours", i, "name"), b.name) for i, b in enumerate(behaviours))


def _input_fault(recipe: Recipe, value: Any) -> str | None:
    if recipe.input.dtype == "BYTES":
        return None if isinstance(value, str) else "is not a text"
    if isinstance(value, dict):
        columns = {column.name for column in recipe.input.columns}
        if not columns:
            return "names columns, and the recipe's input has none"
        unknown, missing = sorted(value.keys() - columns), sorted(columns - value.keys())
        if unknown or missing:
            return f"does not name the input's columns (unknown: {unknown}, missing: {missing})"
        nullable = {column.name for column in recipe.input.columns if column.max_null_rate > 0}
        value = [0.0 if item is None and name in nullable else item for name, item in value.items()]
    shape = _shape(value)
    if shape is None:
        return "is not made of numbers in equal rows"
    if shape != recipe.input.shape:
        return f"has the shape {list(shape)}, and the input's is {list(recipe.input.shape)}"
    return None


def _shape(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ()
    if not isinstance(value, list):
        return None
    inner = {_shape(item) for item in value}
    only = inner.pop() if len(inner) == 1 else None
    return None if only is None else (len(value), *only)


def _robustness_faults(recipe: Recipe) -> Iterator[Fault]:
    robustness = recipe.evaluation.robustness
    if robustness is None:
        return
    path = ("evaluation", "robustness")
    if recipe.generates:
        yield Fault(path, "is for labelled rows, and text-generation has none")
    elif recipe.input.dtype == "BYTES":
        if robustness.typo_rate is None:
            yield Fault((*path, "typo_rate"), "is missing: the input is text")
        if robustness.noise_std is not None:
            yield Fault((*path, "noise_std"), "is for numbers, and the input is text")
    else:
        if robustness.noise_std is None:
            yield Fault((*path, "noise_std"), "is missing: the input is numbers")
        if robustness.typo_rate is not None:
            yield Fault((*path, "typo_rate"), "is for text, and the input is numbers")


def _prompt_faults(recipe: Recipe) -> Iterator[Fault]:
    prompts = recipe.prompts
    if prompts is None:
        if recipe.generates:
            yield Fault(("prompts",), "is missing: a language model travels with its prompts")
        return
    if not recipe.generates:
        yield Fault(("prompts",), "is for the task text-generation")
    for i, case in enumerate(prompts.cases):
        path: FieldPath = ("prompts", "cases", i)
        if case.matches is not None:
            try:
                re.compile(case.matches)
            except re.error as error:
                yield Fault((*path, "matches"), f"is not a regular expression ({error})")
        if not any((case.contains, case.excludes, case.matches, case.min_tokens, case.json, case.ends)):
            yield Fault(path, "names no property that the answer must have")
        if case.min_tokens > case.max_tokens:
            yield Fault((*path, "min_tokens"), "is above max_tokens")
    yield from doubled((("prompts", "cases", i, "name"), c.name) for i, c in enumerate(prompts.cases))


def _fallback_faults(recipe: Recipe) -> Iterator[Fault]:
    if recipe.fallback is None:
        return
    if recipe.task not in _ONE_CLASS_A_ROW:
        yield Fault(("fallback",), f"rests on a classifier's confidence, which {recipe.task} has not")
    cloud = [variant.id for variant in _variants(recipe) if variant.target == "cloud"]
    if recipe.fallback.variant not in cloud:
        remedy = did_you_mean(recipe.fallback.variant, cloud)
        yield Fault(("fallback", "variant"), "is not one of the variants with the target cloud", remedy)


def gate_faults(recipe: Recipe, *, has_baseline: bool) -> Iterator[Fault]:
    """Every fault of the gates. `has_baseline`: the build was given one, though the recipe may name none."""
    for i, gate in enumerate(recipe.gates):
        path = ("gates", i)
        yield from _metric_faults(recipe, gate, path)
        yield from _narrowing_faults(recipe, gate, path)
        yield from _reference_faults(
            recipe, gate, path, has_baseline or recipe.evaluation.baseline is not None
        )
        yield from _bound_faults(gate, path)


def _metric_faults(recipe: Recipe, gate: Gate, path: FieldPath) -> Iterator[Fault]:
    known = metrics_of(recipe.task)
    if gate.metric not in known:
        what = f"is {gate.metric!r}, which is none of {', '.join(known)}"
        yield Fault((*path, "metric"), what, did_you_mean(gate.metric, known))
    needs = {
        "behaviours_passed": ("evaluation.behaviours", recipe.evaluation.behaviours),
        "robust_accuracy": ("evaluation.robustness", recipe.evaluation.robustness),
        "prompts_passed": ("prompts.cases", recipe.prompts.cases if recipe.prompts is not None else ()),
    }
    field, given = needs.get(gate.metric, ("", True))
    if not given:
        yield Fault((*path, "metric"), f"is {gate.metric}, which nothing measures: there are no {field}")


def _narrowing_faults(recipe: Recipe, gate: Gate, path: FieldPath) -> Iterator[Fault]:
    if (gate.group is not None) != (gate.metric == "group_gap"):
        what = "is missing: group_gap is taken over its values" if gate.group is None else "is for group_gap"
        yield Fault((*path, "group"), what)
    if gate.slice is None:
        return
    attribute, equals, _ = gate.slice.partition("=")
    known = SLICED if equals and attribute != "class" else SLICED_BY_CLASS
    if gate.metric not in known:
        yield Fault((*path, "slice"), f"narrows {', '.join(known)} only")
    slices = ("class", *recipe.evaluation.slices)
    if equals and attribute not in slices:
        remedy = did_you_mean(attribute, slices) or f"Add {attribute} to evaluation.slices."
        yield Fault((*path, "slice"), f"{attribute!r} is none of evaluation.slices", remedy)


def _reference_faults(recipe: Recipe, gate: Gate, path: FieldPath, has_baseline: bool) -> Iterator[Fault]:
    ids = [variant.id for variant in _variants(recipe)]
    what = "is not one of the variants"
    if recipe.variants == "auto":
        what = "is not one of search.keep; which others there will be is not known before the search"
    if gate.variant is not None and gate.variant not in ids:
        yield Fault((*path, "variant"), what, did_you_mean(gate.variant, ids))
    against = gate.drop_against
    if against == BASELINE:
        if not has_baseline:
            yield Fault(
                (*path, "drop_against"),
                "is the baseline, and there is none",
                "Name an earlier bundle in evaluation.baseline, or by --baseline.",
            )
    elif against is not None and against not in ids:
        yield Fault((*path, "drop_against"), what, did_you_mean(against, [*ids, BASELINE]))
    elif against is not None and against == gate.variant:
        yield Fault((*path, "drop_against"), "is the gate's own variant: the drop is always 0")


def _bound_faults(gate: Gate, path: FieldPath) -> Iterator[Fault]:
    low, high = gate.at_least, gate.at_most
    if low is None and high is None:
        yield Fault(path, "has neither at_least nor at_most")
    if low is not None and high is not None and low > high:
        yield Fault((*path, "at_least"), "is above at_most")
    if gate.metric in RATES and gate.drop_against is None:
        for field, bound in (("at_least", low), ("at_most", high)):
            if bound is not None and not 0 <= bound <= 1:
                yield Fault((*path, field), f"is outside 0 to 1, where {gate.metric} lies")


def _variants(recipe: Recipe) -> tuple[Any, ...]:
    """The variants that are known before any search."""
    if recipe.variants == "auto":
        return recipe.search.keep if recipe.search is not None else ()
    return recipe.variants
