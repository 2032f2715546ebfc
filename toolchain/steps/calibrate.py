"""The calibrate step: how unsure the device must be before it asks the cloud."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolchain.steps.arrays import Array, load_arrays, load_part
from toolchain.steps.context import StepContext


def run(context: StepContext) -> None:
    """Writes `fallback.json`: under `found` the threshold for the shipped variant and what it gave on the
    calibration rows, or None if no threshold reaches the recipe's target, which the gate step refuses."""
    fallback = context.config["fallback"]
    probabilities = load_arrays(context.inputs["evaluation"] / "outputs.npz")["calibration"]
    _, labels = load_part(context.inputs["data"], "calibration")
    found = threshold(
        probabilities.max(axis=1),
        probabilities.argmax(axis=1) == labels,
        target_error=fallback["target_error"],
        minimum_accepted=fallback["minimum_accepted"],
    )
    context.write_json("fallback.json", {**fallback, "judged": context.config["variant"], "found": found})


def threshold(
    confidence: Array, right: Array, *, target_error: float, minimum_accepted: int
) -> dict[str, Any] | None:
    """The smallest threshold at which the rows of at least that confidence err at most `target_error` of
    the time, at least `minimum_accepted` of them; None if there is none.

    Smallest, because the error does not fall steadily with the threshold, and each row kept is one that
    the cloud need not answer. The error is measured on the rows that the threshold was chosen by, so it
    is a little optimistic: the calibration's `rows` say how much to trust it.
    """
    candidates = np.unique(np.concatenate([[0.0], confidence.astype(np.float64)]))
    for candidate in candidates:
        kept = confidence >= candidate
        if kept.sum() < minimum_accepted:
            return None
        error = 1.0 - float(right[kept].mean())
        if error <= target_error:
            return {
                "confidence_threshold": float(np.float32(candidate)),
                "calibration": {
                    "method": "smallest threshold with the target error on the rows kept",
                    "rows": len(right),
                    "target_error": target_error,
                    "accepted_error": round(error, 6),
                    "fallback_share": round(1.0 - float(kept.mean()), 6),
                    "error_without": round(1.0 - float(right.mean()), 6),
                },
            }
    return None
