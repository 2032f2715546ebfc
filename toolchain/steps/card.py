"""The model card: Markdown under the front matter that Hugging Face reads
(https://huggingface.co/docs/hub/model-cards, "Model card metadata")."""

from __future__ import annotations

from typing import Any

import yaml

from toolchain.plan import preferred
from toolchain.recipe import Recipe

_COLUMNS = ("accuracy", "worst_class_accuracy", "nll", "ece", "parity_max_abs", "size_bytes")


def model_card(recipe: Recipe, report: dict[str, Any], data: dict[str, Any]) -> str:
    """The card's text."""
    shipped = report["variants"][preferred(recipe).id]
    front = {
        "license": recipe.license.lower(),
        "library_name": "onnx",
        "pipeline_tag": recipe.task,
        "tags": ["edgeops", "onnx", "distillation"],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": recipe.name,
                "results": [
                    {
                        "task": {"type": recipe.task},
                        "dataset": {"name": data["source"], "type": recipe.name, "split": "held-out"},
                        "metrics": [{"type": "accuracy", "value": shipped["accuracy"]}],
                    }
                ],
            }
        ],
    }
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    body = (
        _intro(recipe, report, data) + _quality(recipe, report) + _training(recipe, report) + _gates(report)
    )
    return f"---\n{header}---\n\n" + "\n".join(body) + "\n"


def _intro(recipe: Recipe, report: dict[str, Any], data: dict[str, Any]) -> list[str]:
    contract = recipe.input
    rows = data["rows"]
    lines = [
        f"# {recipe.name} {recipe.version}",
        "",
        recipe.description,
        "",
        f"- **Input** `{contract.name}`: FP32, shape {['batch', *contract.shape]}, values from "
        f"{contract.minimum:g} to {contract.maximum:g}. {recipe.preprocessing}",
        f"- **Output** `{recipe.output}`: FP32, one probability for each of {', '.join(data['classes'])}.",
        f"- **Data**: {data['source']} ({data['license']}). {rows['train']} rows trained, "
        f"{rows['calibration']} calibrated, {rows['held_out']} were held out.",
        f"- **License**: {recipe.license}",
    ]
    fallback = report["fallback"]
    if fallback is not None:
        found = fallback["found"]
        lines.append(
            f"- **Fallback**: below a confidence of {found['confidence_threshold']:.4f} the cloud's "
            f"`{fallback['variant']}` answers; on the calibration rows that was "
            f"{found['calibration']['fallback_share']:.1%} of them, and the answers kept erred in "
            f"{found['calibration']['accepted_error']:.1%}."
        )
    return [*lines, ""]


def _quality(recipe: Recipe, report: dict[str, Any]) -> list[str]:
    rows = [
        [variant.id, variant.target, *(f"{report['variants'][variant.id][name]:.6g}" for name in _COLUMNS)]
        for variant in recipe.variants
    ]
    return [
        "## Quality",
        "",
        "On the held-out rows, in ONNX Runtime, one row at a time.",
        "",
        *_table(["variant", "runs on", *_COLUMNS], rows),
        "",
        *(f"- {remark}" for remark in report["remarks"]),
        "",
        *([f"**Limitations.** {recipe.limitations}", ""] if recipe.limitations else []),
    ]


def _training(recipe: Recipe, report: dict[str, Any]) -> list[str]:
    student, teacher = report["training"]["student"], report["training"]["teacher"]
    spec = recipe.student
    rows = [
        [str(run["seed"]), f"{run['alone']:.4f}", f"{run['distilled']:.4f}"]
        for run in student["distillation"]["runs"]
    ]
    return [
        "## Training",
        "",
        f"Teacher `{recipe.teacher.factory}`, {teacher['parameters']} parameters, "
        f"{recipe.teacher.training.epochs} epochs. Student `{spec.factory}`, {student['parameters']} "
        f"parameters, {spec.training.epochs} epochs on {student['train_rows']} rows, temperature "
        f"{spec.distillation.temperature:g}, α {spec.distillation.alpha:g}. The first seed's distilled "
        "student ships.",
        "",
        *_table(["seed", "student alone", "distilled"], rows),
        "",
    ]


def _gates(report: dict[str, Any]) -> list[str]:
    rows = [
        [gate["name"], "measured" if "value" not in gate else f"{gate['value']:g}", "passed"]
        for gate in report["gates"]
    ]
    return ["## Gates", "", *_table(["gate", "value", "outcome"], rows)]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
