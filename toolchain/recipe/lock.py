"""The lock file of a recipe with `variants: auto`: what the search chose and why, in YAML beside the recipe.

Times vary and digests must not, so a choice that rests on measured times is written down once, and followed
until another search is asked for. The file belongs into version control with the recipe. It bears no date:
the commit has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from edgeops.durable import write_atomic
from edgeops.errors import ConfigError
from toolchain.recipe.base import Strict
from toolchain.recipe.document import parse_document
from toolchain.recipe.misfits import misfit
from toolchain.recipe.variants import VariantSpec

Figures = dict[str, int | float]

AGAIN = "Search again with --search."
_HEAD = """\
# Which variants `edgeops build` makes of the recipe beside this file, and why no others.
# Written by a search (edgeops build RECIPE --search) and followed until the next: keep it with the recipe.
"""


class ChosenVariant(Strict, frozen=True, kw_only=True):
    """A variant that was kept, and what was measured of it."""

    variant: VariantSpec
    figures: Figures


class RejectedVariant(Strict, frozen=True, kw_only=True):
    """A candidate that was not kept: why, and what was measured of it (nothing if it could not be made)."""

    id: str
    reason: str
    figures: Figures = {}


class Lock(Strict, frozen=True, kw_only=True):
    """A search's outcome. `search` and `model` are digests of what it was made for. `reference` is the
    unquantized model's own `metric`. `machine` says where latencies were measured. `variants` stand in the
    order in which devices shall prefer them."""

    schema_version: Literal["1.0"] = "1.0"
    search: str
    model: str
    metric: str
    max_drop: float
    reference: float
    machine: dict[str, str | int]
    variants: Annotated[tuple[ChosenVariant, ...], msgspec.Meta(min_length=1)]
    rejected: tuple[RejectedVariant, ...]


def lock_path(recipe: Path) -> Path:
    """Where the lock of the recipe in that file lies: `recipe.lock.yaml` for `recipe.yaml`."""
    return recipe.with_name(f"{recipe.stem}.lock.yaml")


def read_lock(path: Path) -> Lock | None:
    """The lock in the file, None if there is no file. Raises `ConfigError` on one that is no lock."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", subject=str(path)) from error
    document = parse_document(data, path.name, remedy=AGAIN)
    try:
        return msgspec.convert(document.value, Lock)
    except msgspec.ValidationError as error:
        raise document.errors([misfit(document, Lock, error)]) from error


def write_lock(path: Path, lock: Lock) -> None:
    """Writes the file; equal locks are equal bytes. Raises `ConfigError` if it cannot be written."""
    text = _HEAD + yaml.dump(
        _plain(lock),
        Dumper=yaml.SafeDumper,
        sort_keys=False,
        allow_unicode=True,
        width=110,
    )
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise unwritable(path, error.strerror) from error


def unwritable(path: Path, why: str | None) -> ConfigError:
    """The error that a search's outcome has no place."""
    return ConfigError(
        f"The search's outcome cannot be written to {path} ({why}).",
        remedy="Name another file with --lock FILE, and give the same in later builds.",
        subject=str(path),
    )


_DEFAULTS = {
    field.name: field.default
    for field in msgspec.structs.fields(VariantSpec)
    if not field.required and field.name != "format"
}


def _plain(lock: Lock) -> dict[str, object]:
    """The lock as plain values, its variants with those fields only that say something."""
    plain: dict[str, object] = msgspec.to_builtins(lock)
    plain["rejected"] = [msgspec.to_builtins(one) for one in lock.rejected]
    plain["variants"] = [
        {"variant": _told(msgspec.to_builtins(one.variant)), "figures": one.figures} for one in lock.variants
    ]
    return plain


def _told(variant: dict[str, object]) -> dict[str, object]:
    return {
        name: value for name, value in variant.items() if name not in _DEFAULTS or value != _DEFAULTS[name]
    }
