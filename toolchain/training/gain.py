"""What distilling gained over training the student alone, judged over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# The metric by which runs are told, by what it takes to be good at it.
MORE_IS_BETTER = {"accuracy": True, "perplexity": False}
CONFIDENCE = 0.95


def summary(runs: Sequence[Mapping[str, Any]], *, metric: str = "accuracy") -> dict[str, Any]:
    """The runs (`seed`, `alone`, `distilled`: the metric on the held-out rows) with the mean of both kinds
    and their spread over seeds, the mean gain of distilling and its spread (None for one seed). A gain
    above 0 is good whatever the metric: for one where less is better it is how much less.

    `verdict` is `helps` or `hurts` if the 95% confidence interval of the mean gain (Student's t over seeds,
    paired) leaves out 0, else `unclear`, as it always is with one seed.
    """
    from scipy.special import stdtrit

    sign = 1.0 if MORE_IS_BETTER[metric] else -1.0
    gains = [sign * (run["distilled"] - run["alone"]) for run in runs]
    gain, spread = statistics.fmean(gains), _spread(gains)
    verdict = "unclear"
    if spread is not None:
        quantile = stdtrit(len(gains) - 1, (1 + CONFIDENCE) / 2)
        if abs(gain) > quantile * spread / math.sqrt(len(gains)):
            verdict = "helps" if gain > 0 else "hurts"
    return {
        "metric": metric,
        "runs": [dict(run) for run in runs],
        **_of_kind(runs, "alone"),
        **_of_kind(runs, "distilled"),
        "mean_gain": round(gain, 6),
        "gain_stdev": None if spread is None else round(spread, 6),
        "verdict": verdict,
    }


def alone(runs: Sequence[Mapping[str, Any]], *, metric: str = "accuracy") -> dict[str, Any]:
    """The same for a model that no teacher taught: the runs, their mean and spread over seeds."""
    return {"metric": metric, "runs": [dict(run) for run in runs], **_of_kind(runs, "alone")}


def _of_kind(runs: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float | None]:
    values = [run[kind] for run in runs]
    spread = _spread(values)
    return {
        f"mean_{kind}": round(statistics.fmean(values), 6),
        f"{kind}_stdev": None if spread is None else round(spread, 6),
    }


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
