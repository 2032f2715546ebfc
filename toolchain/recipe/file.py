"""Reads a recipe from YAML. What does not fit is refused, with the file's line and the field's name."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeops.errors import ConfigError
from toolchain.recipe import Recipe
from toolchain.recipe.document import parse_document
from toolchain.recipe.faults import find_faults
from toolchain.recipe.misfits import misfit

RECIPE_FILE = "recipe.yaml"


def find_recipe(recipe: str) -> Path:
    """The YAML file that `recipe` means: a file, a folder with a `recipe.yaml`, or one of these below
    the installed `models` package, such as `digits` or `digits/recipe-1.1.0.yaml`."""
    import models

    places = [Path(recipe), *(Path(root) / recipe for root in models.__path__)]
    for place in places:
        file = place / RECIPE_FILE if place.is_dir() else place
        if file.is_file():
            return file
    raise ConfigError(
        f"There is no recipe {recipe!r}.",
        remedy="Give a YAML file, a folder with a recipe.yaml, or a packaged model such as digits.",
        subject=recipe,
    )


def read_recipe(path: Path, *, has_baseline: bool = False) -> Recipe:
    """The recipe in the file. Gates may compare with the baseline if the recipe names one, or if the build
    was given one (`has_baseline`). Raises `ConfigError` that names the line and the field at fault."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", subject=str(path)) from error
    return parse_recipe(data, path.name, has_baseline=has_baseline)


def parse_recipe(data: bytes, source: str, *, has_baseline: bool = False) -> Recipe:
    """The recipe in YAML `data`; `source` names the file in errors."""
    document = parse_document(data, source)
    try:
        recipe = msgspec.convert(document.value, Recipe)
    except msgspec.ValidationError as error:
        raise document.errors([misfit(document, Recipe, error)]) from error
    faults = list(find_faults(recipe, has_baseline=has_baseline))
    if faults:
        raise document.errors(faults)
    return recipe
