"""The calibrate step: how unsure the device must be before it asks the cloud."""

from __future__ import annotations

from toolchain.evaluation.report import OUTPUTS_FILE
from toolchain.evaluation.threshold import Target, calibrate
from toolchain.handover.arrays import load_arrays, load_part
from toolchain.handover.context import StepContext

FALLBACK_FILE = "fallback.json"


def run(context: StepContext) -> None:
    """Writes `fallback.json`: the recipe's fallback, and what `toolchain.evaluation.threshold.calibrate`
    found for the shipped variant. If it found no threshold, the gate step refuses."""
    fallback = context.config["fallback"]
    probabilities = load_arrays(context.inputs["evaluation"] / OUTPUTS_FILE)["calibration"]
    _, labels = load_part(context.inputs["data"], "calibration")
    target = Target(
        error=fallback["target_error"],
        minimum_accepted=fallback["minimum_accepted"],
        confidence_level=fallback["confidence_level"],
    )
    result = calibrate(probabilities, labels, target)
    context.write_json(FALLBACK_FILE, {**fallback, "judged": context.config["variant"], **result})
