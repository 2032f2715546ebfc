"""How unsure a device must be before it asks the cloud: a temperature and a threshold, with a guarantee.

The calibration rows are parted (see parting.py). The first quarter fits the temperature (Guo et al.,
arXiv:1706.04599, section 4.2) and proposes thresholds: those that keep ever more of it. The others, on which
neither was chosen, test these one after another: fixed sequence testing, as in Learn then Test (Angelopoulos
et al., arXiv:2110.01052). The rows kept at a threshold err independently, so that the number of errors is
binomial, and the test is exact (Clopper and Pearson 1934).
With the probability `confidence_level` over calibration rows, the threshold found keeps the error of the
answers that a device gives itself at or under the target, on requests that are like these rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeops.confidence import confidences
from toolchain.evaluation.classification import calibration_error
from toolchain.evaluation.parting import choosing_rows
from toolchain.evaluation.report import rounded
from toolchain.handover.arrays import Array

METHOD = (
    "temperature scaling and thresholds from the first quarter of the calibration rows, "
    "tested in a fixed sequence by the exact binomial bound on the others"
)
STEPS = 20
TEMPERATURES = (0.05, 20.0)
CURVE_POINTS = 40
_SMALLEST = 1e-12
_THRESHOLD_DIGITS = 6


@dataclass(frozen=True)
class Target:
    """What the recipe asks for."""

    error: float
    minimum_accepted: int
    confidence_level: float

    @property
    def least_rows(self) -> int:
        """The fewest rows, all answered rightly, that can prove the error."""
        return math.ceil(math.log(1 - self.confidence_level) / math.log(1 - self.error))


@dataclass(frozen=True)
class Judged:
    """Answers with their calibrated confidence (float64) and whether they are right."""

    confidence: Array
    right: Array

    def kept(self, thresholds: Array) -> tuple[Array, Array]:
        """How many answers have at least each confidence, and how many of them are wrong."""
        order = np.argsort(-self.confidence, kind="stable")
        wrong = np.concatenate([[0], np.cumsum(~self.right[order])])
        count = np.searchsorted(-self.confidence[order], -thresholds, side="right")
        return count, wrong[count]


def calibrate(probabilities: Array, labels: Array, target: Target) -> dict[str, Any]:
    """`found` (None if no threshold passes), the `reason` if none does, and the risk–coverage `curve`.

    `probabilities` is of shape (rows, classes), `labels` int64 of shape (rows,), in a random order. `found`
    has `confidence_threshold` in [0, 1], `temperature`, and under `calibration` what they gave:
    `accepted_error` and its upper bound `error_bound` on the rows that tested it, `fallback_share` on all.
    """
    first = choosing_rows(len(labels))
    temperature = fit_temperature(probabilities[:first], labels[:first])
    confidence = confidences(probabilities, temperature).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    proposing = Judged(confidence[:first], right[:first])
    testing = Judged(confidence[first:], right[first:])
    whole = Judged(confidence, right)
    curve = _curve(testing, target)
    if len(testing.right) < target.least_rows:
        reason = (
            f"{len(testing.right)} rows cannot prove an error of {target.error:g} at the confidence level "
            f"{target.confidence_level:g}: {target.least_rows} rightly answered ones are the least"
        )
        return {"found": None, "reason": reason, "curve": curve}
    threshold = choose(proposing.confidence, testing, target)
    if threshold is None:
        reason = f"no threshold keeps the error under {target.error:g} on the rows that test it"
        return {"found": None, "reason": reason, "curve": curve}
    kept = int((whole.confidence >= threshold).sum())
    if kept < target.minimum_accepted:
        reason = f"{kept} rows are kept, and {target.minimum_accepted} are the least"
        return {"found": None, "reason": reason, "curve": curve}
    count, wrong = (int(values[0]) for values in testing.kept(np.array([threshold])))
    uncalibrated = confidences(probabilities[first:]).astype(np.float64)
    found = {
        "confidence_threshold": threshold,
        "temperature": temperature,
        "calibration": {
            "method": METHOD,
            "rows_fitted": first,
            "rows_tested": len(testing.right),
            "rows_kept": count,
            "target_error": target.error,
            "confidence_level": target.confidence_level,
            "accepted_error": rounded(wrong / count),
            "error_bound": rounded(error_bound(wrong, count, target.confidence_level)),
            "fallback_share": rounded(1 - kept / len(right)),
            "error_without": rounded(1 - float(right.mean())),
            "ece_before": rounded(calibration_error(uncalibrated, testing.right)),
            "ece_after": rounded(calibration_error(testing.confidence, testing.right)),
        },
    }
    return {"found": found, "reason": None, "curve": curve}


def fit_temperature(probabilities: Array, labels: Array) -> float:
    """The temperature in [0.05, 20] that makes the labels most likely, to four significant digits: beyond
    lies the rounding of the machine. 1 if every row is right: no temperature is too small for these."""
    from scipy.optimize import minimize_scalar

    if np.all(probabilities.argmax(axis=1) == labels):
        return 1.0
    logs = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = logs / math.exp(log_temperature)
        highest = scaled.max(axis=1)
        total = np.log(np.exp(scaled - highest[:, None]).sum(axis=1)) + highest
        return float((total - scaled[rows, labels]).mean())

    low, high = (math.log(bound) for bound in TEMPERATURES)
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    return float(f"{math.exp(best.x):.4g}")


def choose(proposing: Array, testing: Judged, target: Target) -> float | None:
    """The smallest threshold that passes, or None. The sequence goes down to 0 and ends with the first that
    the tests do not prove. It is made of the first part's confidences (`proposing`) and the number of tests
    alone.
    """
    sequence = _sequence(proposing, len(testing.right), target)
    count, wrong = testing.kept(sequence)
    passed = p_values(wrong, count, target.error) <= 1 - target.confidence_level
    length = len(passed) if passed.all() else int(passed.argmin())
    return float(sequence[length - 1]) if length else None


def p_values(wrong: Array, count: Array, error: float) -> Array:
    """The probability of so few wrong answers among `count`, if each were wrong with the probability `error`:
    the p-value of the hypothesis that the error is larger."""
    from scipy.stats import binom

    values: Array = np.where(count > 0, binom.cdf(wrong, np.maximum(count, 1), error), 1.0)
    return values


def error_bound(wrong: int, count: int, confidence_level: float) -> float:
    """The one-sided upper confidence bound of Clopper and Pearson on the error; 1 for no answers."""
    from scipy.stats import beta

    return 1.0 if wrong >= count else float(beta.ppf(confidence_level, wrong + 1, count - wrong))


def _sequence(proposing: Array, tests: int, target: Target) -> Array:
    """Thresholds that keep each twentieth more of the first part, from the first that should keep tests
    enough to pass with an error among them; a single one would else end the sequence before it began."""
    counts = np.arange(tests + 1)
    enough = p_values(np.ones(tests + 1), counts, target.error) <= 1 - target.confidence_level
    least = int(enough.argmax()) if enough.any() else tests
    shares = np.arange(1, STEPS) / STEPS
    return np.append(_rounded_down(proposing, shares[shares * tests >= least])[::-1], 0.0)


def _rounded_down(confidence: Array, shares: Array) -> Array:
    """Thresholds that keep at least these shares of the rows, each once and in ascending order; rounded down,
    so that the row that a threshold was taken from is kept by it."""
    scale = 10.0**_THRESHOLD_DIGITS
    if not len(shares):
        return np.empty(0)
    values: Array = np.unique(np.floor(np.quantile(confidence, 1 - shares, method="lower") * scale) / scale)
    return values


def _curve(testing: Judged, target: Target) -> list[dict[str, float | None]]:
    """Risk against coverage (El-Yaniv and Wiener 2010): the error of the answers kept, and its upper bound,
    at thresholds that keep equal further shares."""
    thresholds = _rounded_down(testing.confidence, np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS)
    count, wrong = testing.kept(thresholds)
    return [
        {
            "threshold": float(threshold),
            "coverage": rounded(kept / len(testing.right)),
            "error": rounded(errors / kept),
            "error_bound": rounded(error_bound(int(errors), int(kept), target.confidence_level)),
        }
        for threshold, kept, errors in zip(thresholds, count, wrong, strict=True)
    ]
