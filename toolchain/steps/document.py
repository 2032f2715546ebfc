"""The document step: the evaluation report, the model card and the provenance of a bundle.

All times are the one that the plan was given, and nothing here knows of paths, users or machines, so the
same build gives the same documents.
"""

from __future__ import annotations

import msgspec

from edgeops.canonical import sha256_file
from toolchain.documents.bom import ml_bom
from toolchain.documents.card import model_card
from toolchain.documents.html import render
from toolchain.documents.report import collect
from toolchain.documents.slsa import slsa_statement
from toolchain.evaluation.variant import VARIANT_FOLDER
from toolchain.handover.context import StepContext
from toolchain.plan.step import model_step
from toolchain.recipe import Recipe

PROMPTS_FOLDER = "prompts"
QUANTIZATION_FILE = "quantization.json"


def run(context: StepContext) -> None:
    """Writes `README.md`, `evaluation/report.json` and `.html`, `provenance/slsa.json` and
    `provenance/ml-bom.cdx.json`."""
    config = context.config
    recipe = msgspec.convert(config["recipe"], Recipe)
    created = config["created"]
    report = collect(context, config, context.read_json("gate", "gates.json")["gates"])
    quantized = {
        spec.id: context.read_json(model_step(spec), QUANTIZATION_FILE)
        for spec in recipe.listed
        if (context.inputs[model_step(spec)] / QUANTIZATION_FILE).exists()
    }
    report["quantization"] = quantized
    report["search"] = config["search"]
    files = {
        f"variants/{spec.id}/{path}": sha
        for spec in recipe.listed
        for path, sha in _digests(context, model_step(spec), VARIANT_FOLDER).items()
    }
    prompts = {
        f"{PROMPTS_FOLDER}/{path}": sha
        for path, sha in (
            _digests(context, "prompts", PROMPTS_FOLDER) if "prompts" in context.inputs else {}
        ).items()
    }
    context.write_json("evaluation/report.json", report)
    (context.out / "evaluation" / "report.html").write_text(render(report), encoding="utf-8")
    (context.out / "README.md").write_text(model_card(recipe, report), encoding="utf-8")
    evidence = (recipe, files, report, prompts, context.records, created)
    context.write_json("provenance/slsa.json", slsa_statement(*evidence))
    context.write_json("provenance/ml-bom.cdx.json", ml_bom(*evidence))


def _digests(context: StepContext, role: str, folder: str) -> dict[str, str]:
    """The files below a folder of an earlier step's output, by path, with their SHA-256."""
    root = context.inputs[role] / folder
    return {
        path.relative_to(root).as_posix(): sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
