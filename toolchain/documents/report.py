"""The evaluation report: all that is known of a build's quality, in one JSON value. It is in the bundle as
`evaluation/report.json`, and beside the bundle's place when a gate failed (then with what was measured)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolchain.evaluation.report import CLASS_SLICE, EVALUATION_FILE
from toolchain.handover.context import StepContext

REPORT_SCHEMA = "1.0"
_UNQUANTIZED = ("fp32", "f16")
_EVALUATE, _MODEL = "evaluate-", "model-"
# A smaller loss of the main figure is not worth a remark: some rows decide it.
_WORTH_TELLING = 0.005


def collect(
    context: StepContext, config: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The report of a build whose steps fill the context's roles. `config["about"]` is what the plan says of
    the recipe."""
    about, data = config["about"], context.read_json("data", "data.json")
    evaluations = {
        variant: {**context.read_json(f"{_EVALUATE}{variant}", EVALUATION_FILE), **told}
        for variant, told in about["variants"].items()
    }
    baseline = f"{_EVALUATE}baseline"
    report = {
        "schema_version": REPORT_SCHEMA,
        **{
            name: about[name]
            for name in ("name", "version", "task", "description", "limitations", "preferred")
        },
        "data": {name: data[name] for name in ("source", "license", "sha256")},
        "rows": data["rows"],
        "gates": list(gates),
        "order": list(about["variants"]),
        "variants": evaluations,
        "baseline": context.read_json(baseline, EVALUATION_FILE) if baseline in context.inputs else None,
        "training": {
            role.removeprefix(_MODEL): context.read_json(role, "training.json")
            for role in sorted(context.inputs)
            if role.startswith(_MODEL)
        },
        "fallback": (
            context.read_json("calibrate", "fallback.json") if "calibrate" in context.inputs else None
        ),
    }
    return {**report, "remarks": list(remarks(report, about["class_share"]))}


def in_order(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The variants with their names, in the order in which devices shall prefer them: JSON objects have
    none."""
    return [(name, report["variants"][name]) for name in report["order"]]


def slices_in_order(evaluation: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The slices with their names: classes in the data's order, then values of attributes."""
    places = {f"{CLASS_SLICE}{name}": place for place, name in enumerate(evaluation["classes"])}
    told = evaluation["slices"].items()
    return sorted(told, key=lambda item: (places.get(item[0], len(places)), item[0]))


def main_metric(task: str) -> str:
    """The figure by which variants of the task are compared first; more is better."""
    return {"feature-extraction": "neighbour_accuracy", "text-generation": "top1_agreement"}.get(
        task, "accuracy"
    )


def remarks(report: Mapping[str, Any], class_share: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """What a reader should not have to work out: what did not help, what was left out, where it is weak."""
    for model, training in report["training"].items():
        if "distillation" in training:
            yield _distilled(model, training["distillation"], training["shipped"])
        if class_share.get(model):
            shares = ", ".join(f"{name}: {share:g}" for name, share in class_share[model].items())
            yield (
                f"{model} saw {training['train_rows']} of {report['rows']['train']} training rows "
                f"(share kept of classes: {shares})."
            )
    yield from _quantized(report)
    shipped = report["variants"][report["preferred"]]
    yield from _weak_spots(report["preferred"], shipped)
    yield from _failed_cases(report["preferred"], shipped)
    fallback = report["fallback"]
    if fallback is not None and fallback["found"] is not None:
        share = fallback["found"]["calibration"]["fallback_share"]
        if share > 0.5:
            yield (
                f"More than half of the requests ({share:.0%}) are expected to fall back to "
                f"{fallback['variant']}: the target error of {fallback['target_error']:g} asks much of "
                f"{fallback['judged']}."
            )


def _distilled(model: str, gain: Mapping[str, Any], shipped: Mapping[str, Any]) -> str:
    verdict = {
        "helps": "helps",
        "hurts": "does not help: it makes the model worse",
        "unclear": "cannot be told from chance over these seeds",
    }[gain["verdict"]]
    return (
        f"Distillation of {model} {verdict}. Mean held-out {gain['metric']} over "
        f"{len(gain['runs'])} seed(s): {gain['mean_alone']:.4f} alone, "
        f"{gain['mean_distilled']:.4f} distilled. The run that is best on the calibration rows ships: seed "
        f"{shipped['seed']}, {shipped['kind']}."
    )


def _quantized(report: Mapping[str, Any]) -> Iterator[str]:
    """Whether each quantized variant is smaller than the unquantized one of its model and format, and what it
    costs."""
    variants, metric = report["variants"], main_metric(report["task"])
    for name, variant in variants.items():
        for other_name, other in variants.items():
            same = (variant["model"], variant["format"]) == (other["model"], other["format"])
            if not same or other["precision"] not in _UNQUANTIZED or variant["precision"] in _UNQUANTIZED:
                continue
            sizes = variant["size_bytes"], other["size_bytes"]
            if sizes[0] >= sizes[1]:
                yield f"{name} is not smaller than {other_name}: {sizes[0]} and {sizes[1]} bytes."
            one, two = variant["metrics"].get(metric), other["metrics"].get(metric)
            if one is not None and two is not None and two - one > _WORTH_TELLING:
                yield f"{name} loses {two - one:.4f} of {metric} against {other_name}."


def _weak_spots(name: str, variant: Mapping[str, Any]) -> Iterator[str]:
    metric = "neighbour_accuracy" if variant["dimensions"] else "accuracy"
    told = {
        slice_name: figures[metric]
        for slice_name, figures in variant["slices"].items()
        if figures.get(metric) is not None
    }
    classes = {key: value for key, value in told.items() if key.startswith(CLASS_SLICE)}
    for what, figures in (("class", classes), ("slice", {k: v for k, v in told.items() if k not in classes})):
        if figures:
            value, weakest = min((value, key) for key, value in figures.items())
            label = weakest.removeprefix(CLASS_SLICE) if what == "class" else weakest
            yield f"The weakest {what} of {name} is {label!r}, with {metric.replace('_', ' ')} {value:.4f}."
    for attribute, group in variant["groups"].items():
        if group["excluded"]:
            yield (
                f"The gap between values of {attribute} leaves out {', '.join(group['excluded'])}: "
                "too few rows."
            )


def _failed_cases(name: str, variant: Mapping[str, Any]) -> Iterator[str]:
    for what in ("behaviours", "prompts"):
        failed = [case["name"] for case in variant[what] if not case["passed"]]
        if failed:
            yield f"{name} fails {len(failed)} of {len(variant[what])} {what}: {', '.join(failed)}."
