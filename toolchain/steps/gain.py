"""What distilling gained over training the student alone, judged over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy.special import stdtrit


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The runs with the mean of both kinds, the mean gain of distilling, and its spread over seeds (None
    for one seed). `verdict` is `helps` or `hurts` if the 95% confidence interval of the mean gain (Student's
    t over seeds) leaves out 0, else `unclear`, as it always is with one seed."""
    gains = [run["distilled"] - run["alone"] for run in runs]
    gain = statistics.fmean(gains)
    spread = statistics.stdev(gains) if len(gains) > 1 else None
    verdict = "unclear"
    if spread is not None and abs(gain) > stdtrit(len(gains) - 1, 0.975) * spread / math.sqrt(len(gains)):
        verdict = "helps" if gain > 0 else "hurts"
    return {
        "runs": list(runs),
        "mean_alone": round(statistics.fmean(run["alone"] for run in runs), 6),
        "mean_distilled": round(statistics.fmean(run["distilled"] for run in runs), 6),
        "mean_gain": round(gain, 6),
        "gain_stdev": None if spread is None else round(spread, 6),
        "verdict": verdict,
    }
