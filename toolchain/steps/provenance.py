"""Where a bundle comes from, in the two forms that other tools read: SLSA provenance v1
(https://slsa.dev/spec/v1.1/provenance) and a CycloneDX 1.6 ML-BOM (https://cyclonedx.org/docs/1.6/json/).

Code stands there by the digest of each source file that took part. That is narrower than a revision of a
repository: a commit that touches none of them changes nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgeops import __version__
from toolchain.recipe import Recipe

BUILD_TYPE = "urn:edgeops:build:v1"
BUILDER = "urn:edgeops:toolchain"

Records = Mapping[str, Mapping[str, Any]]


def slsa_statement(
    recipe: Recipe, models: Mapping[str, str], data: Mapping[str, Any], records: Records, created: str
) -> dict[str, Any]:
    """An in-toto Statement v1 about the model files (path to SHA-256). The bundle's signature covers it."""
    code, tools = _merged(records, "code"), _merged(records, "tools")
    dependencies: list[dict[str, Any]] = [
        {"name": "data", "digest": {"sha256": data["sha256"]}, "annotations": {"source": data["source"]}}
    ]
    dependencies += [{"name": f"code:{name}", "digest": {"sha256": sha}} for name, sha in code.items()]
    dependencies += [{"name": f"tool:{name}", "uri": _purl(name, version)} for name, version in tools.items()]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path, "digest": {"sha256": sha}} for path, sha in sorted(models.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": msgspec.to_builtins(recipe)},
                "internalParameters": {
                    "steps": {
                        name: {"config": record["config"], "inputs": record["inputs"]}
                        for name, record in sorted(records.items())
                    }
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"edgeops": __version__}},
                "metadata": {"finishedOn": created},
            },
        },
    }


def ml_bom(
    recipe: Recipe,
    models: Mapping[str, str],
    data: Mapping[str, Any],
    report: Mapping[str, Any],
    records: Records,
    created: str,
) -> dict[str, Any]:
    """The bill of materials: the model with its card, its files, its data, and the tools that made it."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {
                "components": [{"type": "application", "name": "edgeops", "version": __version__}],
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": recipe.name,
                "version": recipe.version,
                "description": recipe.description,
                "licenses": [{"expression": recipe.license}],
                "modelCard": _model_card(recipe, report),
            },
        },
        "components": [
            {
                "type": "data",
                "bom-ref": "data",
                "name": "training data",
                "description": data["source"],
                "hashes": [{"alg": "SHA-256", "content": data["sha256"]}],
                "licenses": [{"expression": data["license"]}],
                "data": [{"type": "dataset", "name": "training data", "classification": "public"}],
            },
            *(
                {
                    "type": "file",
                    "bom-ref": path,
                    "name": path,
                    "hashes": [{"alg": "SHA-256", "content": sha}],
                }
                for path, sha in sorted(models.items())
            ),
            *(
                {
                    "type": "library",
                    "bom-ref": f"tool:{name}",
                    "name": name,
                    "version": version,
                    "purl": _purl(name, version),
                    "scope": "excluded",
                }
                for name, version in _merged(records, "tools").items()
            ),
        ],
        "dependencies": [{"ref": "model", "dependsOn": ["data", *sorted(models)]}],
    }


def _model_card(recipe: Recipe, report: Mapping[str, Any]) -> dict[str, Any]:
    metrics: list[dict[str, str]] = []
    for variant, evaluation in sorted(report["variants"].items()):
        metrics.append({"type": f"accuracy of {variant}", "value": str(evaluation["accuracy"])})
        metrics += [
            {"type": f"accuracy of {variant}", "value": str(value), "slice": name}
            for name, value in sorted(evaluation["class_accuracy"].items())
            if value is not None
        ]
    limitations = [*([recipe.limitations] if recipe.limitations else []), *report["remarks"]]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": recipe.task,
            "datasets": [{"ref": "data"}],
            "inputs": [{"format": f"FP32 {['batch', *recipe.input.shape]}"}],
            "outputs": [{"format": "one FP32 probability for each class"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"technicalLimitations": limitations},
    }


def _merged(records: Records, field: str) -> dict[str, str]:
    merged: dict[str, str] = {}
    for record in records.values():
        merged |= record[field]
    return dict(sorted(merged.items()))


def _purl(name: str, version: str) -> str:
    """A package URL (https://github.com/package-url/purl-spec): `+` must be escaped."""
    if name == "python":
        return f"pkg:generic/python@{version}"
    return f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
