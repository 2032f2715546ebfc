"""What a plan is made of: steps, and the names by which they find each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from toolchain.recipe import Recipe
from toolchain.recipe.variants import VariantSpec


@dataclass(frozen=True)
class Step:
    """One step: `module` has `run(context)` (see toolchain/handover/context.py). `inputs` maps a role to
    the step whose output folder fills it; `files` a role to a file or folder outside the build, whose content
    counts and whose place does not. `code` names the recipe's modules and `tools` the distributions that the
    output depends on. `attests`: the step is told how the steps before it were made, and so depends on
    that, not only on what they wrote. `isolated`: it runs in a process of its own. `foreign`: it reads a file
    from elsewhere, which is at fault if the step's process dies. `exclusive`: nothing else runs meanwhile,
    since it measures time."""

    name: str
    module: str
    meaning: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    attests: bool = False
    isolated: bool = False
    foreign: bool = False
    exclusive: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each comes after its inputs. The last makes the unsigned bundle. `search`
    tells how the variants were found, if they were."""

    label: str
    steps: tuple[Step, ...]
    search: Mapping[str, Any] | None = None


def teacher_of(recipe: Recipe, name: str) -> str | None:
    """The model that the model of that name learns from."""
    distillation = getattr(recipe.models[name], "distillation", None)
    return None if distillation is None else str(distillation.teacher)


def model_step(variant: VariantSpec) -> str:
    """The step that writes the variant's files."""
    unquantized = {"onnx": "fp32", "gguf": "f16", "mlx": "f16"}
    if unquantized.get(variant.format) == variant.precision:
        return export_step(variant)
    return f"quantize-{variant.id}"


def export_step(variant: VariantSpec) -> str:
    """The step that turns the variant's model into its format."""
    return f"export-{variant.model}-{variant.format}"


def preferred(recipe: Recipe) -> VariantSpec:
    """The variant that devices prefer: the first one meant for them."""
    return next(variant for variant in recipe.listed if variant.target == "device")


def module_of(factory: str) -> str:
    """The module of a `module:function`."""
    return factory.partition(":")[0]


def plain(value: Any) -> Any:
    """As JSON has it, tuples as lists, so that a config equals itself when it is read back."""
    return msgspec.json.decode(msgspec.json.encode(value))
