"""The recipe's JSON Schema, with which editors complete and check recipes as they are written.

It is JSON Schema 2020-12 (https://json-schema.org/draft/2020-12), made from the types in toolchain/recipe.
What types cannot say (toolchain/recipe/faults.py) only a build says.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec

from toolchain.recipe import Recipe
from toolchain.recipe.base import SCHEMA_VERSION
from toolchain.recipe.evaluation import MEASURED_METRICS, QUALITY_METRICS
from toolchain.recipe.variants import PRECISIONS
from toolchain.recipe.words import WORDS

SCHEMA_FILE = f"recipe-{SCHEMA_VERSION}.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
# A name, not an address (RFC 8141): nothing is fetched from it.
SCHEMA_ID = f"urn:edgeops:schema:recipe:{SCHEMA_VERSION}"


def recipe_schema() -> dict[str, Any]:
    """The schema. Each field has a description, an example, its default and its bounds."""
    (_,), components = msgspec.json.schema_components([Recipe], ref_template="#/$defs/{name}")
    structs = {kind.__name__: kind for kind in structs_of(Recipe)}
    definitions = {name: _definition(name, structs[name], value) for name, value in components.items()}
    _metrics(definitions)
    _precisions(definitions)
    return {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        "title": "edgeops recipe",
        **definitions.pop("Recipe"),
        "$defs": definitions,
    }


def schema_text() -> str:
    """The schema as it is published: docs/schema/recipe-1.0.json."""
    return json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"


def editor_line(path: str) -> str:
    """The comment by which editors find the schema at `path`, an address or relative to the recipe
    (https://github.com/redhat-developer/yaml-language-server#using-inlined-schema)."""
    return f"# yaml-language-server: $schema={path}"


def structs_of(kind: Any) -> tuple[type[msgspec.Struct], ...]:
    """The struct and all that its fields are made of, in order of first mention."""
    found: dict[type[msgspec.Struct], None] = {}
    _collect(msgspec.inspect.type_info(kind), found)
    return tuple(found)


def _collect(info: msgspec.inspect.Type, found: dict[type[msgspec.Struct], None]) -> None:
    match info:
        case msgspec.inspect.StructType():
            if info.cls not in found:
                found[info.cls] = None
                for field in info.fields:
                    _collect(field.type, found)
        case msgspec.inspect.Metadata():
            _collect(info.type, found)
        case msgspec.inspect.UnionType():
            for member in info.types:
                _collect(member, found)
        case msgspec.inspect.DictType():
            _collect(info.value_type, found)
        case msgspec.inspect.VarTupleType():
            _collect(info.item_type, found)
        case msgspec.inspect.TupleType():
            for item in info.item_types:
                _collect(item, found)


def _definition(name: str, struct: type[msgspec.Struct], made: dict[str, Any]) -> dict[str, Any]:
    words = WORDS[name]
    fields = {
        field: _field(value, *words[field], required=field in made.get("required", ()))
        for field, value in made["properties"].items()
    }
    return {
        "description": " ".join(inspect.getdoc(struct).split()),  # type: ignore[union-attr]
        "type": "object",
        "properties": fields,
        "required": sorted(made.get("required", ())),
        "additionalProperties": False,
    }


def _field(made: dict[str, Any], meaning: str, example: Any, *, required: bool) -> dict[str, Any]:
    value = _without_null(made)
    value.pop("discriminator", None)  # OpenAPI's word, which JSON Schema has not
    default = value.pop("default", None)
    described: dict[str, Any] = {"description": meaning, **value, "examples": [example]}
    if not required and not _says_nothing(default):
        described["default"] = _short(default)
    return described


def _without_null(made: dict[str, Any]) -> dict[str, Any]:
    """A field that may be left out need not be written as null; types that are alternatives stay so."""
    value = dict(made)
    members = [member for member in value.pop("anyOf", ()) if member != {"type": "null"}]
    if "enum" in value:
        value["enum"] = [choice for choice in value["enum"] if choice is not None]
    for nested in ("additionalProperties", "items"):
        if isinstance(value.get(nested), dict):
            value[nested] = _without_null(value[nested])
            value[nested].pop("discriminator", None)
    if len(members) == 1:
        return {**value, **members[0]}
    return {**value, "anyOf": members} if members else value


def _short(default: Any) -> Any:
    """A default without what is empty in it."""
    if isinstance(default, dict):
        return {key: _short(item) for key, item in default.items() if not _says_nothing(item)}
    return default


def _says_nothing(default: Any) -> bool:
    return default is None or (isinstance(default, str | list | tuple | dict) and not default)


def _precisions(definitions: dict[str, Any]) -> None:
    """Each format has its own precisions, so that editors offer only those."""
    definitions["VariantSpec"]["allOf"] = [
        {
            "if": {
                "properties": {"format": {"const": format}},
                "required": [] if format == "onnx" else ["format"],
            },
            "then": {"properties": {"precision": {"enum": list(precisions)}}},
        }
        for format, precisions in PRECISIONS.items()
    ]


def _metrics(definitions: dict[str, Any]) -> None:
    """Metrics are plain text in the types, since which of them a task has is not the types' to say."""
    metric = definitions["Gate"]["properties"]["metric"]
    metric["enum"] = list(dict.fromkeys((*QUALITY_METRICS, *MEASURED_METRICS)))
    del metric["type"]
