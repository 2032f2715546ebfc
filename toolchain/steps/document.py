"""The document step: the evaluation report, the model card and the provenance of a bundle.

All times are the one that the plan was given, and nothing here knows of paths, users or machines, so the
same build gives the same documents.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgeops.canonical import sha256_file
from toolchain.plan import model_step, preferred
from toolchain.recipe import Recipe
from toolchain.steps.card import model_card
from toolchain.steps.context import StepContext
from toolchain.steps.provenance import ml_bom, slsa_statement

MODEL_FILE = "model.onnx"
REPORT_SCHEMA = "1.0"


def run(context: StepContext) -> None:
    """Writes `README.md`, `evaluation/report.json`, `provenance/slsa.json`, `provenance/ml-bom.cdx.json`."""
    recipe = msgspec.convert(context.config["recipe"], Recipe)
    created = context.config["created"]
    data = context.read_json("data", "data.json")
    report = _report(context, recipe, data)
    models = {
        f"variants/{variant.id}/{MODEL_FILE}": sha256_file(context.inputs[model_step(variant)] / MODEL_FILE)
        for variant in recipe.variants
    }
    context.write_json("evaluation/report.json", report)
    (context.out / "README.md").write_text(model_card(recipe, report, data), encoding="utf-8")
    context.write_json("provenance/slsa.json", slsa_statement(recipe, models, data, context.records, created))
    context.write_json(
        "provenance/ml-bom.cdx.json", ml_bom(recipe, models, data, report, context.records, created)
    )


def _report(context: StepContext, recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    evaluations = {
        variant.id: context.read_json(f"evaluate-{variant.id}", "evaluation.json")
        for variant in recipe.variants
    }
    training = {model: context.read_json(model, "training.json") for model in ("teacher", "student")}
    report = {
        "schema_version": REPORT_SCHEMA,
        "name": recipe.name,
        "version": recipe.version,
        "rows": data["rows"],
        "gates": context.read_json("gate", "gates.json")["gates"],
        "variants": evaluations,
        "training": training,
        "fallback": context.read_json("calibrate", "fallback.json") if recipe.fallback is not None else None,
    }
    return {**report, "remarks": _remarks(recipe, evaluations, training["student"], data)}


def _remarks(
    recipe: Recipe, evaluations: dict[str, Any], student: dict[str, Any], data: dict[str, Any]
) -> list[str]:
    """What a reader should not have to work out: what did not help, and what was left out."""
    gain = student["distillation"]
    verdict = {
        "helps": "helps",
        "hurts": "does not help: it makes the student worse",
        "unclear": "cannot be told from chance over these seeds",
    }[gain["verdict"]]
    remarks = [
        f"Distillation {verdict}. Mean held-out accuracy over {len(gain['runs'])} seed(s): "
        f"{gain['mean_alone']:.4f} alone, {gain['mean_distilled']:.4f} distilled."
    ]
    if student["train_rows"] < data["rows"]["train"]:
        shares = ", ".join(f"{name}: {share:g}" for name, share in recipe.student.class_share.items())
        remarks.append(
            f"The student saw {student['train_rows']} of {data['rows']['train']} training rows "
            f"(share kept of classes: {shares})."
        )
    for variant in recipe.variants:
        for other in recipe.variants:
            pair = variant.model == other.model and (variant.precision, other.precision) == ("int8", "fp32")
            sizes = evaluations[variant.id]["size_bytes"], evaluations[other.id]["size_bytes"]
            if pair and sizes[0] >= sizes[1]:
                remarks.append(
                    f"{variant.id} is not smaller than {other.id}: {sizes[0]} and {sizes[1]} bytes."
                )
    worst = evaluations[preferred(recipe).id]["class_accuracy"]
    weak = min((value, name) for name, value in worst.items() if value is not None)
    remarks.append(
        f"The weakest class of {preferred(recipe).id} is {weak[1]!r}, with accuracy {weak[0]:.4f}."
    )
    return remarks
