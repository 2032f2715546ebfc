"""Reads a recipe from YAML. What does not fit is refused, with the file's line and the field's name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from edgeops.errors import ConfigError
from edgeops.names import is_name, is_version
from toolchain.recipe import MEASURED_METRICS, QUALITY_METRICS, Recipe

RECIPE_FILE = "recipe.yaml"
MAX_RECIPE_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 20

# libyaml's loader, where PyYAML was built with it, reads the same about ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """Plain values, and the line (from 1) on which each field stands, by its path."""

    source: str
    value: dict[str, Any]
    lines: dict[Path_, int]

    def line(self, path: Path_) -> int:
        """The line of the field, or of the nearest field around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: Path_, what: str) -> ConfigError:
        """The error that `what` is wrong with the field at `path`."""
        field = _dotted(path)
        where = f"{self.source}, line {self.line(path)}"
        return ConfigError(
            f"{where}: {field} {what}." if field else f"{where}: the recipe {what}.",
            remedy="Correct the recipe.",
            subject=field or self.source,
            details={"line": self.line(path), "field": field},
        )


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


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file. Raises `ConfigError` that names the line and the field at fault."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", subject=str(path)) from error
    return parse_recipe(data, path.name)


def parse_recipe(data: bytes, source: str) -> Recipe:
    """The recipe in YAML `data`; `source` names the file in errors."""
    document = _parse_yaml(data, source)
    try:
        recipe = msgspec.convert(document.value, Recipe)
    except msgspec.ValidationError as error:
        raise _schema_error(document, str(error)) from error
    for path, what in _faults(recipe):
        raise document.error(path, what)
    return recipe


def _parse_yaml(data: bytes, source: str) -> Document:
    if len(data) > MAX_RECIPE_BYTES:
        raise ConfigError(f"{source} is larger than {MAX_RECIPE_BYTES} bytes.", subject=source)
    loader = _Loader(data)
    try:
        _check_depth(data, source)
        node = loader.get_single_node()
        lines: dict[Path_, int] = {}
        document = Document(source, {}, lines)
        value = _plain(loader, node, (), document)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(
            f"{source}, line {line}: this is not valid YAML ({problem}).",
            remedy="Correct the recipe.",
            subject=source,
            details={"line": line},
        ) from error
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise document.error((), "is not a mapping of fields")
    return Document(source, value, lines)


def _check_depth(data: bytes, source: str) -> None:
    # Before nodes are built: libyaml's bindings recurse there, and deep nesting would end the process.
    depth = 0
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = 1 if event.start_mark is None else event.start_mark.line + 1
            raise Document(source, {}, {(): line}).error((), "is nested too deeply")


def _plain(loader: Any, node: Any, path: Path_, document: Document) -> Any:
    """Plain values of a YAML node. Fills `document.lines`; refuses doubled keys, and the size that
    aliases can blow a small file up to."""
    if node is None:
        return None
    document.lines.setdefault(path, node.start_mark.line + 1)
    if len(document.lines) > MAX_NODES or len(path) > MAX_DEPTH:
        raise document.error(path, "is too large, or refers to itself")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise document.error(path, "has a key that is not text")
            document.lines[(*path, key)] = key_node.start_mark.line + 1
            if key in result:
                raise document.error((*path, key), "stands there twice")
            result[key] = _plain(loader, value_node, (*path, key), document)
        return result
    try:
        value = loader.construct_object(node, deep=True)
    except ValueError as error:  # such as a date that does not exist
        raise document.error(path, f"cannot be read ({error})") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise document.error(path, "is not a finite number")
    return value


def _schema_error(document: Document, text: str) -> ConfigError:
    """msgspec ends its messages in "- at `$.a.b[0]`"; unknown and missing fields are named before that."""
    what, _, where = text.partition(" - at ")
    path = _parse_path(where.strip("`"))
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", what)
    missing = re.fullmatch(r"Object missing required field `(.+)`", what)
    if unknown:
        return document.error((*path, unknown[1]), "is not a field of a recipe")
    if missing:
        return document.error((*path, missing[1]), "is missing")
    return document.error(path, f"is not what it must be ({what[0].lower()}{what[1:]})")


def _parse_path(text: str) -> Path_:
    parts: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", text):
        parts.append(name or (int(index) if index.isdigit() else index))
    return tuple(parts)


def _dotted(path: Path_) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) or part == "..." else f".{part}" for part in path)
    return text.lstrip(".")


def _faults(recipe: Recipe) -> Iterator[tuple[Path_, str]]:
    """What the types cannot say: names, references between fields, sums."""
    if not is_name(recipe.name):
        yield ("name",), "is not a valid name (lower-case letters, digits, dots, dashes, underscores)"
    if not is_version(recipe.version):
        yield ("version",), "is not a semantic version such as 1.0.0"
    if recipe.data.calibration + recipe.data.held_out >= 1:
        yield ("data", "held_out"), "leaves no rows to train on beside calibration"
    if recipe.input.minimum >= recipe.input.maximum:
        yield ("input", "minimum"), "is not below maximum"
    yield from _variant_faults(recipe)
    yield from _gate_faults(recipe)
    names = [feature.name for feature in recipe.features]
    for i, name in enumerate(names):
        if name in names[:i] or not is_name(name):
            yield ("features", i, "name"), "is taken already, or is not a valid name"


def _variant_faults(recipe: Recipe) -> Iterator[tuple[Path_, str]]:
    ids = [variant.id for variant in recipe.variants]
    for i, variant_id in enumerate(ids):
        if variant_id in ids[:i] or not is_name(variant_id):
            yield ("variants", i, "id"), "is taken already, or is not a valid name"
    if not any(variant.target == "device" for variant in recipe.variants):
        yield ("variants",), "has none for devices"
    cloud = [variant.id for variant in recipe.variants if variant.target == "cloud"]
    if recipe.fallback is not None and recipe.fallback.variant not in cloud:
        yield ("fallback", "variant"), "is not one of the variants with the target cloud"


def _gate_faults(recipe: Recipe) -> Iterator[tuple[Path_, str]]:
    ids = {variant.id for variant in recipe.variants}
    for i, gate in enumerate(recipe.gates):
        if gate.metric not in QUALITY_METRICS + MEASURED_METRICS:
            yield ("gates", i, "metric"), f"is none of {', '.join(QUALITY_METRICS + MEASURED_METRICS)}"
        if gate.variant not in ids:
            yield ("gates", i, "variant"), "is not one of the variants"
        if gate.drop_against is not None and gate.drop_against not in ids:
            yield ("gates", i, "drop_against"), "is not one of the variants"
        if gate.slice is not None and gate.metric != "accuracy":
            yield ("gates", i, "slice"), "narrows accuracy only"
        if gate.at_least is None and gate.at_most is None:
            yield ("gates", i), "has neither at_least nor at_most"
