"""The gate step: holds every figure against the recipe's conditions. A figure that is missing fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgeops.errors import GateError
from edgeops.manifest import MEASUREMENTS_FILE
from toolchain.recipe import MEASURED_METRICS, Gate
from toolchain.steps.context import StepContext

Figures = Mapping[str, Mapping[str, Any]]


def run(context: StepContext) -> None:
    """Writes `gates.json`; the values of measured gates go to `measurements.json` instead, since they
    differ from run to run. Raises `GateError` with the whole report in `details` if any gate fails."""
    config = context.config
    variants = [role.removeprefix("evaluate-") for role in context.inputs if role.startswith("evaluate-")]
    evaluations = {v: context.read_json(f"evaluate-{v}", "evaluation.json") for v in variants}
    measured = {v: context.read_json(f"evaluate-{v}", MEASUREMENTS_FILE) for v in variants}
    gates = [msgspec.convert(item, Gate) for item in config["gates"]]
    for variant, budget_bytes in config["memory_budget_bytes"].items():
        gates.append(Gate(metric="memory_bytes", variant=variant, at_most=budget_bytes))
    figures = {v: {**evaluations[v], **measured[v]} for v in variants}
    outcomes = [judge(gate, figures) for gate in gates]
    if "calibrate" in context.inputs:
        outcomes.append(judge_fallback(context.read_json("calibrate", "fallback.json")))
    failed = [outcome for outcome in outcomes if not outcome["passed"]]
    if failed:
        report = {
            "bundle": config["label"],
            "gates": outcomes,
            "variants": evaluations,
            "measurements": measured,
            "training": {
                model: context.read_json(model, "training.json") for model in ("teacher", "student")
            },
        }
        raise GateError(
            f"{len(failed)} of {len(outcomes)} gates failed, the first one: {failed[0]['name']} "
            f"({_found(failed[0])}).",
            remedy="Train a better model, or change the gate if it asks for too much.",
            subject=failed[0]["name"],
            details={"gates": outcomes, "report": report},
        )
    context.write_json("gates.json", {"gates": [_without_measured_value(o) for o in outcomes]})
    context.write_json(
        MEASUREMENTS_FILE, {o["name"]: o["value"] for o in outcomes if o["metric"] in MEASURED_METRICS}
    )


def judge(gate: Gate, figures: Figures) -> dict[str, Any]:
    """The gate's outcome: `passed`, the `value` found (None if it is missing, which fails) and the bounds."""
    value = _figure(gate, gate.variant, figures)
    if gate.drop_against is not None:
        other = _figure(gate, gate.drop_against, figures)
        value = None if value is None or other is None else round(other - value, 6)
    passed = (
        value is not None
        and (gate.at_least is None or value >= gate.at_least)
        and (gate.at_most is None or value <= gate.at_most)
    )
    return {
        "name": gate.name,
        "metric": gate.metric,
        "variant": gate.variant,
        "value": value,
        "at_least": gate.at_least,
        "at_most": gate.at_most,
        "passed": passed,
    }


def judge_fallback(fallback: Mapping[str, Any]) -> dict[str, Any]:
    """Whether some threshold keeps the error of the answers that a device gives itself under the target."""
    found = fallback["found"]
    return {
        "name": f"error of answers kept by {fallback['judged']} <= {fallback['target_error']:g}",
        "metric": "accepted_error",
        "variant": fallback["judged"],
        "value": None if found is None else found["calibration"]["accepted_error"],
        "at_least": None,
        "at_most": fallback["target_error"],
        "passed": found is not None,
    }


def _figure(gate: Gate, variant: str, figures: Figures) -> float | None:
    found = figures.get(variant, {})
    value = found.get("class_accuracy", {}).get(gate.slice) if gate.slice else found.get(gate.metric)
    return None if value is None else float(value)


def _without_measured_value(outcome: dict[str, Any]) -> dict[str, Any]:
    if outcome["metric"] not in MEASURED_METRICS:
        return outcome
    return {name: value for name, value in outcome.items() if name != "value"}


def _found(outcome: Mapping[str, Any]) -> str:
    return "there is no such figure" if outcome["value"] is None else f"{outcome['value']:g} found"
