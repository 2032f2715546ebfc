"""What `edgeops new` finds out about a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeops.errors import ConfigError
from toolchain.recipe.base import Task
from toolchain.recipe.variants import Format


@dataclass(frozen=True)
class Found:
    """A model: where it is (`place`, None for code) and in which `role` the recipe names that, the recipe's
    `source` and further `fields` for it, and the task that it is made for. `variants` are formats that it can
    be brought into, each with a precision to begin with, `optional` more of them for some devices. `input` is
    what is known of its input. `notes` are remarks for the recipe's reader, `size_bytes` is the size of its
    weights, `has_template` says whether a language model brings a chat template."""

    source: str
    name: str
    task: Task
    fields: dict[str, Any]
    variants: tuple[tuple[Format, str], ...]
    place: Path | None = None
    role: str = "file"
    input: dict[str, Any] = field(default_factory=dict)
    output: str | None = None
    classes: tuple[str, ...] = ()
    size_bytes: int = 0
    license: str | None = None
    notes: tuple[str, ...] = ()
    optional: tuple[tuple[Format, str], ...] = ()
    has_template: bool = True


def unknown(model: str, why: str, remedy: str) -> ConfigError:
    """The error that nobody can tell from the model what to write."""
    return ConfigError(f"No recipe can be made from {model}: {why}.", remedy=remedy, subject=model)


def model_name(text: str) -> str:
    """A valid name made of a file's or folder's; `model` if nothing of it can stand."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text.lower())
    return kept[:64].strip("._-") or "model"
