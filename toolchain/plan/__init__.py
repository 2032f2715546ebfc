"""The plan: which steps a recipe takes, what each depends on, and in which order they can run. Pure.

    data ─► tokenizer ─► train-… ─► model-<m> ─► export-<m>-<format> ─► quantize-<variant> ─┐
                                        └──────► answers-<m> ────────────────► evaluate-<variant>
                                                                                     │
             package ◄── document ◄── gate ◄── calibrate ◄───────────────────────────┤
                └───────────────────────────── reference ◄───────────────────────────┘

A step's config holds what it needs of the recipe and no more, so that recipes which share a step's config
and inputs (the three digits recipes and their teacher) share its cached output. What each step leaves for the
next is told in toolchain/steps/__init__.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.plan.evaluation import conclusions, evaluations
from toolchain.plan.models import data_steps, exports, models, quantized
from toolchain.plan.step import Plan, Step, model_step, preferred, teacher_of
from toolchain.recipe import Recipe

__all__ = ["Plan", "Step", "make_plan", "model_step", "preferred"]


def make_plan(
    recipe: Recipe,
    *,
    folder: Path,
    created: str,
    baseline: Path | None = None,
    search: Mapping[str, Any] | None = None,
) -> Plan:
    """The steps of a recipe whose relative paths begin in `folder`. `created` (RFC 3339) is the time that its
    documents bear. `baseline` is a bundle to compare with, instead of the recipe's own. `search` tells, for
    the report, how the variants were found."""
    variants = recipe.listed
    used = [name for name in recipe.models if _is_used(recipe, name)]
    steps: list[Step] = [
        *data_steps(recipe, folder),
        *(step for name in used for step in models(recipe, name, folder)),
        *exports(recipe, folder),
        *(step for variant in variants for step in quantized(recipe, variant)),
        *evaluations(recipe, folder, baseline),
    ]
    steps += conclusions(recipe, created, steps, search)
    return Plan(label=recipe.label, steps=tuple(steps), search=search)


def _is_used(recipe: Recipe, name: str) -> bool:
    """Whether a variant is made of the model, or a model that is used learns from it."""
    if any(variant.model == name for variant in recipe.listed):
        return True
    return any(
        teacher_of(recipe, other) == name and _is_used(recipe, other)
        for other in recipe.models
        if other != name
    )
