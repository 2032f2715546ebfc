"""A recipe with its variants listed: as it stands, from its lock file, or from a search that writes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeops.canonical import digest_of
from edgeops.errors import ConfigError, GateError
from toolchain.caching.trees import tree_digest
from toolchain.plan.step import plain, teacher_of
from toolchain.recipe import Recipe
from toolchain.recipe.document import dotted
from toolchain.recipe.lock import AGAIN, Lock, lock_path, read_lock, unwritable, write_lock
from toolchain.recipe.variant_faults import list_faults
from toolchain.running.machine import machine_facts
from toolchain.search.candidates import candidates
from toolchain.search.choose import choose
from toolchain.search.trials import Run, try_all


@dataclass(frozen=True)
class Resolved:
    """A recipe whose variants are listed, and the search's outcome as plain values (the lock file's) for the
    bundle's report; None if the recipe lists its variants itself."""

    recipe: Recipe
    outcome: dict[str, Any] | None


def resolve(recipe: Recipe, path: Path, *, search: bool, lock: Path | None, run: Run) -> Resolved:
    """The recipe that was read from the file `path`, with its variants listed.

    With `variants: auto` they come from the lock file: `lock`, or else `recipe.lock.yaml` beside `path`. If
    there is none, or with `search`, they are searched for, `run` running the plans that this takes, and the
    lock file is written. The variants of `search.keep` come after those that were found.

    Raises `ConfigError` if the lock was made for another search, model or data, cannot be read or written,
    or if `search` or `lock` is asked of a recipe that lists its variants; `GateError` if no candidate fits,
    with every reason in `details["search"]`; and what the steps that all candidates need raise.
    """
    if recipe.search is None:
        if search or lock is not None:
            raise ConfigError(
                f"{path.name} lists its variants, so there is nothing to search for.",
                remedy="Leave out --search and --lock, or write variants: auto and a search section.",
                subject="variants",
            )
        return Resolved(recipe, None)
    file = lock if lock is not None else lock_path(path)
    found = None if search else read_lock(file)
    if found is not None:
        _check_made_for(recipe, path.parent, found, file)
        _check_variants(recipe, found, file)
    else:
        _check_writable(file)
        write_lock(file, _search(recipe, path.parent, run))
        # As later builds will find it, to the last digit: the report in the bundle has these figures.
        found = read_lock(file)
        assert found is not None
    variants = (*(chosen.variant for chosen in found.variants), *recipe.search.keep)
    return Resolved(
        msgspec.structs.replace(recipe, variants=variants), {"lock": file.name, **msgspec.to_builtins(found)}
    )


def _search(recipe: Recipe, folder: Path, run: Run) -> Lock:
    search = recipe.search
    assert search is not None
    specs = candidates(recipe)
    taken = {variant.id for variant in search.keep} & {spec.id for spec in specs}
    if taken:
        raise ConfigError(
            f"search.keep has a variant {min(taken)!r}, which is the name of a candidate.",
            remedy="Give it another id.",
            subject="search.keep",
        )
    choice = choose(search, recipe.gates, try_all(recipe, folder, specs, run))
    rejected = msgspec.to_builtins(choice.rejected)
    if not choice.chosen or choice.reference is None:
        raise GateError(
            f"None of the {len(specs)} candidates can be kept: {rejected[0]['id']} {rejected[0]['reason']}.",
            remedy="Allow a larger max_drop or memory budget, loosen the gate, or train a better model.",
            subject="search",
            details={"gates": [], "search": {"rejected": rejected}},
        )
    return Lock(
        search=_search_digest(recipe),
        model=_model_digest(recipe, folder),
        metric=search.metric,
        max_drop=search.max_drop,
        reference=choice.reference,
        machine=machine_facts(),
        variants=choice.chosen,
        rejected=choice.rejected,
    )


def _check_made_for(recipe: Recipe, folder: Path, lock: Lock, file: Path) -> None:
    if lock.search != _search_digest(recipe):
        changed = "the recipe's search section is another now"
    elif lock.model != _model_digest(recipe, folder):
        changed = "the model or its data are others now"
    else:
        return
    raise ConfigError(f"{file.name} was made for another search: {changed}.", remedy=AGAIN, subject=str(file))


def _check_variants(recipe: Recipe, lock: Lock, file: Path) -> None:
    """A lock that a hand has changed is still held to a recipe's rules."""
    variants = [chosen.variant for chosen in lock.variants]
    for fault in list_faults(
        recipe, [*variants, *(recipe.search.keep if recipe.search else ())], ("variants",)
    ):
        raise ConfigError(
            f"{file.name}: {dotted(fault.path)} {fault.what}.",
            remedy=fault.remedy or AGAIN,
            subject=str(file),
        )


def _search_digest(recipe: Recipe) -> str:
    return digest_of(plain(recipe.search))


def _model_digest(recipe: Recipe, folder: Path) -> str:
    """Of what the recipe says of the model searched for, those that it learns from and the data, and of the
    files that it names for them. Not of code and tools: they change often, and the gates judge what comes."""
    search = recipe.search
    assert search is not None
    names: list[str] = []
    name: str | None = search.model
    while name is not None:
        names.append(name)
        name = teacher_of(recipe, name)
    files = {
        f"models.{name}.{role}": path
        for name in names
        for role in ("file", "external_data", "folder", "weights", "tokenizer")
        if (path := getattr(recipe.models[name], role, None)) is not None
    }
    if recipe.data.file is not None:
        files["data.file"] = recipe.data.file
    return digest_of(
        {
            "task": recipe.task,
            "models": {name: plain(recipe.models[name]) for name in names},
            "data": plain(recipe.data),
            "input": plain(recipe.input),
            "output": recipe.output,
            "tokenizer": plain(recipe.tokenizer),
            "files": {field: tree_digest(folder / path) for field, path in files.items()},
        }
    )


def _check_writable(file: Path) -> None:
    """Before hours of searching: whether the outcome will have a place."""
    if not file.parent.is_dir():
        raise unwritable(file, "there is no such folder")
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise unwritable(file, "that is not allowed")
