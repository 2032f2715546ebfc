"""Provenance and bill of materials, read by other people's schemas."""

import json
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement_pb2 import Statement

from edgeops_testkit.reports import report
from models.digits import __path__ as digits
from toolchain.documents.bom import ml_bom
from toolchain.documents.slsa import purl, slsa_statement
from toolchain.recipe import Recipe
from toolchain.recipe.file import read_recipe

pytestmark = pytest.mark.slow  # importing the validators takes seconds

SHA = "ab" * 32
FILES = {"variants/onnx-int8/model.onnx": SHA, "variants/onnx-fp32/model.onnx": "cd" * 32}
PROMPTS = {"prompts/chat_template.jinja": "ef" * 32}
RECORDS = {
    "data": {
        "step": "data",
        "code": {"toolchain.steps.data": SHA},
        "tools": {"python": "3.11.2", "torch": "2.13.0+cpu", "huggingface_hub": "0.36.2"},
        "config": {"seed": 7, "limit": None},
        "inputs": {},
    }
}
CREATED = "2026-01-01T00:00:00Z"


def recipe(**changes: Any) -> Recipe:
    from pathlib import Path

    return msgspec.structs.replace(read_recipe(Path(digits[0]) / "recipe.yaml"), **changes)


def evidence(**changes: Any) -> tuple[Any, ...]:
    return recipe(**changes), FILES, report(), PROMPTS, RECORDS, CREATED


def test_the_statement_fits_in_totos_and_slsas_own_definitions() -> None:
    """The protobuf messages of the in-toto project are the schema: an unknown field or a wrong type is an
    error. What SLSA requires beyond types is asked for here."""
    statement = json.loads(msgspec.json.encode(slsa_statement(*evidence())))
    parsed = json_format.ParseDict(statement, Statement())
    assert parsed.type == "https://in-toto.io/Statement/v1"
    assert parsed.predicate_type == "https://slsa.dev/provenance/v1"
    assert [(s.name, s.digest["sha256"]) for s in parsed.subject] == sorted(FILES.items())
    predicate = json_format.ParseDict(statement["predicate"], Provenance())
    assert predicate.build_definition.build_type.startswith("urn:")
    assert predicate.run_details.builder.id
    for dependency in predicate.build_definition.resolved_dependencies:
        assert dependency.uri or dependency.digest
    assert predicate.run_details.metadata.finished_on.ToJsonString() == CREATED


def test_the_schema_would_see_a_field_that_is_not_slsas() -> None:
    statement = json.loads(msgspec.json.encode(slsa_statement(*evidence())))
    statement["predicate"]["runDetails"]["machine"] = "mine"
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict(statement["predicate"], Provenance())


def test_all_that_makes_a_variant_again_is_told() -> None:
    definition = slsa_statement(*evidence())["predicate"]["buildDefinition"]
    names = {dependency["name"] for dependency in definition["resolvedDependencies"]}
    assert names == {
        "data",
        "prompt:prompts/chat_template.jinja",
        "code:toolchain.steps.data",
        "tool:python",
        "tool:torch",
        "tool:huggingface_hub",
    }
    inner = definition["internalParameters"]
    assert inner["quantization"]["onnx-int8"]["arguments"]["scheme"] == "dynamic"
    assert inner["steps"]["data"]["config"]["seed"] == 7
    assert definition["externalParameters"]["recipe"]["models"]["student"]["seeds"] == (1, 2, 3)


@pytest.mark.parametrize("license", ["CC-BY-4.0", "Apache-2.0 OR MIT", "our own terms"])
@pytest.mark.parametrize("task", ["image-classification", "feature-extraction", "text-generation"])
def test_the_bom_fits_cyclonedx_1_6(license: str, task: str) -> None:
    bom = ml_bom(*evidence(license=license, task=task))
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bom)) is None
    assert validator.validate_str(json.dumps({**bom, "specVersion": 1})) is not None
    assert validator.validate_str(json.dumps({**bom, "unknown": 1})) is not None


def test_the_bom_names_the_model_its_variants_and_what_they_are_made_of() -> None:
    bom = ml_bom(*evidence())
    assert bom["metadata"]["component"]["type"] == "machine-learning-model"
    by_ref = {component["bom-ref"]: component for component in bom["components"]}
    variant = by_ref["variant:onnx-int8"]
    assert [file["name"] for file in variant["components"]] == ["variants/onnx-int8/model.onnx"]
    told = {item["name"]: item["value"] for item in variant["properties"]}
    assert told["edgeops:quantization:scheme"] == "dynamic"
    assert by_ref["prompts/chat_template.jinja"]["hashes"][0]["content"] == "ef" * 32
    assert by_ref["tool:torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    (tree,) = bom["dependencies"]
    assert set(tree["dependsOn"]) <= set(by_ref)
    metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "accuracy of onnx-int8", "value": "0.85", "slice": "dog"} in metrics


def test_package_urls_are_in_pypis_own_spelling() -> None:
    assert purl("huggingface_hub", "0.36.2") == "pkg:pypi/huggingface-hub@0.36.2"
    assert purl("python", "3.11.2") == "pkg:generic/python@3.11.2"
