"""The published schema is the one that the code gives, and says no less than the reader of recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

import models
from toolchain.recipe import Recipe
from toolchain.recipe.evaluation import MEASURED_METRICS, QUALITY_METRICS
from toolchain.recipe.file import read_recipe
from toolchain.recipe.reference import page
from toolchain.recipe.schema import SCHEMA_FILE, recipe_schema, schema_text, structs_of
from toolchain.recipe.words import METRICS, WORDS

DOCS = Path(__file__).parents[3] / "docs"
PACKAGED = sorted(
    path for path in Path(models.__path__[0]).glob("*/recipe*.yaml") if not path.name.endswith(".lock.yaml")
)
VALIDATOR = jsonschema.Draft202012Validator(recipe_schema(), format_checker=jsonschema.FormatChecker())


def as_json(text: str) -> Any:
    """YAML as JSON has it: dates are texts there."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def test_the_published_files_are_current() -> None:
    assert (DOCS / "schema" / SCHEMA_FILE).read_text() == schema_text(), "run python -m docs.generate"
    assert (DOCS / "recipe.md").read_text() == page(), "run python -m docs.generate"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_packaged_recipes_fit_it_and_say_where_it_lies(path: Path) -> None:
    text = path.read_text()
    assert read_recipe(path).schema_version == "1.0"
    assert [error.message for error in VALIDATOR.iter_errors(as_json(text))] == []
    line = next((line for line in text.splitlines() if line.startswith("# yaml-language-server:")), "")
    place = line.partition("$schema=")[2]
    assert (path.parent / place).resolve() == (DOCS / "schema" / SCHEMA_FILE).resolve()


def test_every_field_has_its_words_and_no_words_are_left_over() -> None:
    fields = {
        struct.__name__: {field.encode_name for field in msgspec.structs.fields(struct)}
        | ({struct.__struct_config__.tag_field} if struct.__struct_config__.tag_field else set())
        for struct in structs_of(Recipe)
    }
    assert {name: set(words) for name, words in WORDS.items()} == fields
    assert set(METRICS) == {*QUALITY_METRICS, *MEASURED_METRICS}


def test_editors_know_every_measured_metric() -> None:
    known = recipe_schema()["$defs"]["Gate"]["properties"]["metric"]["enum"]
    assert {"latency_p50_ms", "first_token_ms", "tokens_per_s", "memory_bytes"} <= set(known)


def _examples(schema: Any) -> list[tuple[Any, Any]]:
    found = []
    for struct in (schema, *schema["$defs"].values()):
        for field in struct["properties"].values():
            found += [(field, example) for example in field["examples"]]
    return found


def test_every_example_fits_its_field() -> None:
    schema = recipe_schema()
    examples = _examples(schema)
    assert len(examples) > 100
    for field, example in examples:
        whole = {**field, "$defs": schema["$defs"]}
        assert [error.message for error in jsonschema.Draft202012Validator(whole).iter_errors(example)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"task": "image-clasification"},
        {"gates": []},
        {"gates": [{"metric": "acuracy", "at_least": 1}]},
        {"data": {"seed": 1, "calibration": 2, "held_out": 0.1}},
        {"variants": "automatic"},
        {"variants": [{"id": "a", "model": "student", "precision": "q8_0", "memory_budget_mb": 64}]},
        {"models": {"m": {"source": "pyton", "factory": "a:b"}}},
        {"models": {"m": {"source": "onnx", "folder": "m"}}},
        {"limitation": "misspelt"},
        {"date": "2026-13-01"},
    ],
)
def test_what_the_reader_refuses_by_type_editors_refuse_too(change: dict[str, Any]) -> None:
    value = as_json((Path(models.__path__[0]) / "digits" / "recipe.yaml").read_text())
    assert list(VALIDATOR.iter_errors(value)) == []
    assert list(VALIDATOR.iter_errors({**value, **change})) != []
