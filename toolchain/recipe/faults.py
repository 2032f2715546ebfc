"""What a recipe's types cannot say: names, references between fields, and which fields fit which task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from edgeops.manifest import TEXT_FEATURES
from edgeops.names import is_name, is_version
from toolchain.recipe import Recipe
from toolchain.recipe.base import Task
from toolchain.recipe.document import Fault, FieldPath, doubled
from toolchain.recipe.evaluation_faults import evaluation_faults, gate_faults
from toolchain.recipe.model_faults import model_faults
from toolchain.recipe.variant_faults import variant_faults

# Tasks whose rows are always texts. Vectors may also be wanted of tensors (feature-extraction).
TEXT_TASKS = ("text-classification", "token-classification", "text-generation")
# What toolchain/importing reads.
DATA_SUFFIXES: dict[Task, tuple[str, ...]] = {
    "image-classification": (".npz",),
    "tabular-classification": (".csv", ".npz"),
    "text-classification": (".jsonl", ".npz"),
    "token-classification": (".jsonl", ".npz"),
    "feature-extraction": (".jsonl", ".npz"),
    "text-generation": (".jsonl", ".txt"),
}
IMAGE_OR_TABLE = ("image-classification", "tabular-classification")


def find_faults(recipe: Recipe, *, has_baseline: bool = False) -> Iterator[Fault]:
    """Every fault of a recipe whose types are right. `has_baseline` says that the build was given a baseline
    though the recipe may name none."""
    yield from _identity_faults(recipe)
    yield from path_faults(recipe)
    yield from _data_faults(recipe)
    yield from _input_faults(recipe)
    yield from _feature_faults(recipe)
    yield from model_faults(recipe)
    yield from variant_faults(recipe)
    yield from evaluation_faults(recipe)
    yield from gate_faults(recipe, has_baseline=has_baseline)


def _identity_faults(recipe: Recipe) -> Iterator[Fault]:
    if not is_name(recipe.name):
        yield Fault(("name",), "is not a valid name (lower-case letters, digits, dots, dashes, underscores)")
    if not is_version(recipe.version):
        yield Fault(("version",), "is not a semantic version such as 1.0.0")
    for field in ("description", "license", "output"):
        if not getattr(recipe, field).strip():
            yield Fault((field,), "is empty")


def path_faults(recipe: Recipe) -> Iterator[Fault]:
    """Paths are relative to the recipe, with forward slashes, so that one recipe builds in every checkout and
    no bundle tells of a builder's folders. They may climb by `..`: models, data and earlier bundles often lie
    beside the recipe's folder, and whoever writes a recipe runs code of their choice anyway."""
    for field, path in _paths(recipe):
        if "://" in path:
            yield Fault(field, "is an address", "Download it, and name the file or folder.")
        elif path.startswith(("/", "~")) or "\\" in path or path[1:2] == ":":
            yield Fault(field, "is not a path relative to the recipe's file, with forward slashes")
        elif not path.isprintable():
            yield Fault(field, "has characters that cannot be seen")


def _paths(recipe: Recipe) -> Iterator[tuple[FieldPath, str]]:
    named: list[tuple[FieldPath, str | None]] = [
        (("data", "file"), recipe.data.file),
        *(
            (("models", name, role), getattr(model, role, None))
            for name, model in recipe.models.items()
            for role in ("file", "external_data", "folder", "weights", "tokenizer")
        ),
        (("evaluation", "baseline"), recipe.evaluation.baseline),
    ]
    if recipe.prompts is not None:
        named.append((("prompts", "chat_template"), recipe.prompts.chat_template))
        named.append((("prompts", "system"), recipe.prompts.system))
    yield from ((field, path) for field, path in named if path is not None)


def _data_faults(recipe: Recipe) -> Iterator[Fault]:
    data = recipe.data
    if data.calibration + data.held_out >= 1:
        yield Fault(("data", "held_out"), "leaves no rows to train on beside calibration")
    if (data.factory is None) == (data.file is None):
        yield Fault(("data",), "needs either a factory or a file")
    if data.classes and data.file is None:
        yield Fault(("data", "classes"), "are for a file, and there is none")
    if data.file is not None:
        yield from _file_faults(recipe, data.file)
    if data.options and data.factory is None:
        yield Fault(("data", "options"), "are a factory's, and there is none")
    if data.classes and data.file is None:
        yield Fault(("data", "classes"), "order the labels of a file, and a factory brings its own")


def _file_faults(recipe: Recipe, file: str) -> Iterator[Fault]:
    suffix = PurePosixPath(file).suffix.lower()
    known = DATA_SUFFIXES[recipe.task]
    if suffix not in known:
        what = f"is {suffix or 'without a suffix'}, and {recipe.task} takes {' or '.join(known)}"
        yield Fault(("data", "file"), what)
    if suffix == ".csv" and not recipe.input.columns:
        yield Fault(("input", "columns"), "are missing: they say which columns of the CSV file are the input")


def _input_faults(recipe: Recipe) -> Iterator[Fault]:
    given = recipe.input
    if not given.name.strip():
        yield Fault(("input", "name"), "is empty")
    if recipe.task in TEXT_TASKS and given.dtype != "BYTES":
        yield Fault(("input", "dtype"), f"must be BYTES, a text, for {recipe.task}")
    if recipe.task in IMAGE_OR_TABLE and given.dtype != "FP32":
        yield Fault(("input", "dtype"), f"must be FP32, with a shape, for {recipe.task}")
    if given.dtype == "FP32":
        yield from _tensor_faults(recipe)
        return
    for field in ("shape", "minimum", "maximum", "columns"):
        if getattr(given, field) not in (None, ()):
            yield Fault(("input", field), "is for numbers, and this input is text (dtype BYTES)")


def _tensor_faults(recipe: Recipe) -> Iterator[Fault]:
    given = recipe.input
    if not given.shape:
        yield Fault(
            ("input", "shape"), "is missing", "Give the shape of one row, such as [3, 224, 224] or [12]."
        )
    if given.max_characters is not None:
        yield Fault(("input", "max_characters"), "is for text, and this input is numbers (dtype FP32)")
    yield from _bound_faults(given, ("input",))
    if not given.columns:
        return
    if recipe.task != "tabular-classification":
        yield Fault(("input", "columns"), "are for tabular-classification")
    if given.shape and len(given.columns) != given.shape[-1]:
        what = f"names {len(given.columns)} columns, and the last axis of the shape has {given.shape[-1]}"
        yield Fault(("input", "columns"), what)
    for i, column in enumerate(given.columns):
        if not column.name.strip():
            yield Fault(("input", "columns", i, "name"), "is empty")
        yield from _bound_faults(column, ("input", "columns", i))
    yield from doubled((("input", "columns", i, "name"), c.name) for i, c in enumerate(given.columns))


def _bound_faults(bounded: Any, path: FieldPath) -> Iterator[Fault]:
    low, high = bounded.minimum, bounded.maximum
    if low is not None and high is not None and low >= high:
        yield Fault((*path, "minimum"), "is not below maximum")


def _feature_faults(recipe: Recipe) -> Iterator[Fault]:
    text = recipe.input.dtype == "BYTES"
    elements = math.prod(recipe.input.shape)
    for i, feature in enumerate(recipe.features):
        path = ("features", i)
        if not is_name(feature.name):
            yield Fault((*path, "name"), "is not a valid name (lower-case letters, digits, dots, …)")
        if text != (feature.kind in TEXT_FEATURES):
            yield Fault((*path, "kind"), f"cannot be had of {'text' if text else 'numbers'}")
        if feature.kind != "element" and feature.index != 0:
            yield Fault((*path, "index"), "is for the kind element")
        elif feature.kind == "element" and recipe.input.shape and feature.index >= elements:
            yield Fault((*path, "index"), f"is not below {elements}, the number of elements in a row")
    yield from doubled((("features", i, "name"), f.name) for i, f in enumerate(recipe.features))
