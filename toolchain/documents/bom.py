"""The bill of materials: a CycloneDX 1.6 ML-BOM (https://cyclonedx.org/docs/1.6/json/)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeops import __version__
from toolchain.documents.slsa import Records, merged, purl
from toolchain.evaluation.report import CLASS_SLICE
from toolchain.recipe import Recipe

# https://cyclonedx.org/docs/1.6/json/, modelParameters.approach. How an embedding learned is not known here.
_APPROACHES = {"text-generation": "self-supervised", "feature-extraction": None}


def ml_bom(
    recipe: Recipe,
    files: Mapping[str, str],
    report: Mapping[str, Any],
    prompts: Mapping[str, str],
    records: Records,
    created: str,
) -> dict[str, Any]:
    """The model with its card, its variants with their files and how they were quantized, its prompts, its
    data, and the tools that made it. `files` and `prompts` map paths to SHA-256."""
    variants = list(report["variants"])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {"components": [{"type": "application", "name": "edgeops", "version": __version__}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": recipe.name,
                "version": recipe.version,
                "description": recipe.description,
                "licenses": [_license(recipe.license)],
                "modelCard": _model_card(recipe, report),
            },
        },
        "components": [
            _data(report["data"]),
            *(_variant(variant, recipe, report, files) for variant in variants),
            *(_file(path, sha) for path, sha in sorted(prompts.items())),
            *(
                {
                    "type": "library",
                    "bom-ref": f"tool:{name}",
                    "name": name,
                    "version": version,
                    "purl": purl(name, version),
                    "scope": "excluded",
                }
                for name, version in merged(records, "tools").items()
            ),
        ],
        "dependencies": [
            {
                "ref": "model",
                "dependsOn": ["data", *sorted(prompts), *(f"variant:{variant}" for variant in variants)],
            },
        ],
    }


def _variant(
    variant: str, recipe: Recipe, report: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, Any]:
    evaluation = report["variants"][variant]
    told = {
        "format": evaluation["format"],
        "precision": evaluation["precision"],
        "model": evaluation["model"],
        **{
            f"quantization:{name}": value
            for name, value in sorted(report["quantization"].get(variant, {}).get("arguments", {}).items())
        },
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": f"variant:{variant}",
        "name": f"{recipe.name}/{variant}",
        "version": recipe.version,
        "properties": [{"name": f"edgeops:{name}", "value": str(value)} for name, value in told.items()],
        "components": [
            _file(path, sha) for path, sha in sorted(files.items()) if path.startswith(f"variants/{variant}/")
        ],
    }


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": "data",
        "name": "training data",
        "description": data["source"],
        "hashes": [{"alg": "SHA-256", "content": data["sha256"]}],
        "licenses": [_license(data["license"])],
        "data": [{"type": "dataset", "name": "training, calibration and held-out data"}],
    }


def _file(path: str, sha256: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": path,
        "name": path,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def _license(text: str) -> dict[str, Any]:
    """An SPDX expression where the recipe's text is one, else a name."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return {"expression": str(canonicalize_license_expression(text))}
    except InvalidLicenseExpression:
        return {"license": {"name": text}}


def _model_card(recipe: Recipe, report: Mapping[str, Any]) -> dict[str, Any]:
    approach = _APPROACHES.get(recipe.task, "supervised")
    limitations = [*([recipe.limitations] if recipe.limitations else []), *report["remarks"]]
    given = "text" if recipe.input.dtype == "BYTES" else f"FP32 {['batch', *recipe.input.shape]}"
    answers = {
        "feature-extraction": "one FP32 vector",
        "text-generation": "text",
        "token-classification": "one FP32 probability for each class, for each word",
    }
    return {
        "modelParameters": {
            **({"approach": {"type": approach}} if approach is not None else {}),
            "task": recipe.task,
            "datasets": [{"ref": "data"}],
            "inputs": [{"format": given}],
            "outputs": [{"format": answers.get(recipe.task, "one FP32 probability for each class")}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(report))},
        "considerations": {"technicalLimitations": limitations},
    }


def _metrics(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for variant, evaluation in sorted(report["variants"].items()):
        for metric, value in sorted(evaluation["metrics"].items()):
            if value is not None:
                yield {"type": f"{metric} of {variant}", "value": f"{value:g}"}
        for name, figures in sorted(evaluation["slices"].items()):
            for metric in ("accuracy", "neighbour_accuracy"):
                if figures.get(metric) is not None:
                    yield {
                        "type": f"{metric} of {variant}",
                        "value": str(figures[metric]),
                        "slice": name.removeprefix(CLASS_SLICE),
                    }
