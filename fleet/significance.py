"""From drift statistics to decisions: p-values from the simulated table, and false discovery control.

Between the table's cells critical values are interpolated linearly in 1/n and 1/N (n window values, N
reference values), KS by its square: sampling error makes both statistics proportional to 1/n + 1/N, and the
sketch's noise adds a part that hardly depends on n. Beyond the largest n the last row is used, which is too
strict to alarm rather than too lax. Between levels log p is linear in KS squared and in PSI, which is how
their tails fall (Kolmogorov; chi-square); beyond the smallest level it goes on with the last decade's slope.

Many features at many sites are judged together, so the level is set by Benjamini and Yekutieli, "The control
of the false discovery rate in multiple testing under dependency" (Annals of Statistics 29, 2001): among all
alarms the expected share of false ones stays below q, whatever the dependence between features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fleet import drift_table
from fleet.drift import Distance

Array = npt.NDArray[np.float64]
Statistic = Literal["ks", "psi"]

MIN_COUNT = drift_table.COUNTS[0]
MIN_REFERENCE_COUNT = 200

_LOG_LEVELS = np.log(np.array(drift_table.LEVELS))
_INVERSE_COUNTS = 1 / np.array(drift_table.COUNTS, dtype=np.float64)
_INVERSE_REFERENCES = np.array([0.0 if n is None else 1 / n for n in drift_table.REFERENCE_COUNTS])
# Where the statistics live on the scale on which they are interpolated.
_TABLES: dict[Statistic, Array] = {
    "ks": np.square(np.array(drift_table.KS)),
    "psi": np.array(drift_table.PSI),
}
_LAST_DECADE = drift_table.LEVELS.index(0.01)


def is_judgeable(distance: Distance) -> bool:
    """Whether the table covers these counts. Fewer values than that prove nothing either way."""
    return distance.count >= MIN_COUNT and distance.reference_count >= MIN_REFERENCE_COUNT


def p_value(statistic: Statistic, distance: Distance) -> float:
    """How likely a value at least as large is if nothing changed; in (0, 1]. Needs `is_judgeable`."""
    value = distance.ks**2 if statistic == "ks" else distance.psi
    critical = _critical_values(statistic, distance)
    if value >= critical[-1]:
        log_p = _LOG_LEVELS[-1] + (value - critical[-1]) * _tail_slope(critical)
    else:
        log_p = np.interp(value, np.append(0.0, critical), np.append(0.0, _LOG_LEVELS))
    return float(np.exp(max(log_p, -700.0)))


def threshold(statistic: Statistic, distance: Distance, level: float) -> float:
    """The value from which `p_value` is at most `level`, in (0, 1], at the counts of `distance`."""
    critical = _critical_values(statistic, distance)
    log_level = np.log(level)
    if log_level <= _LOG_LEVELS[-1]:
        value = critical[-1] + (log_level - _LOG_LEVELS[-1]) / _tail_slope(critical)
    else:
        value = np.interp(-log_level, np.append(0.0, -_LOG_LEVELS), np.append(0.0, critical))
    return float(np.sqrt(value)) if statistic == "ks" else float(value)


def discovery_level(p_values: Sequence[float], rate: float) -> float:
    """The level at and below which p-values are discoveries, with a false discovery rate of at most `rate`.

    It is that of the largest rank r whose p-value is at most r * rate / (m * (1 + 1/2 + … + 1/m)), m being
    the number of p-values; if there is none, the level of rank 1.
    """
    m = len(p_values)
    if m == 0:
        raise ValueError("no p-values, no level")
    steps = rate * np.arange(1, m + 1) / (m * (1 / np.arange(1, m + 1)).sum())
    passed = np.flatnonzero(np.sort(np.array(p_values)) <= steps)
    return float(steps[passed[-1] if passed.size else 0])


def _critical_values(statistic: Statistic, distance: Distance) -> Array:
    """One per level, growing, on the scale of interpolation."""
    table = _TABLES[statistic]
    row, row_share = _place(_INVERSE_COUNTS, 1 / distance.count)
    column, column_share = _place(_INVERSE_REFERENCES, 1 / distance.reference_count)
    upper = table[row, column] * (1 - column_share) + table[row, column + 1] * column_share
    lower = table[row + 1, column] * (1 - column_share) + table[row + 1, column + 1] * column_share
    critical: Array = upper * (1 - row_share) + lower * row_share
    return critical


def _place(falling: Array, value: float) -> tuple[int, float]:
    """The cell i and share s with value = falling[i] (1 - s) + falling[i + 1] s, clamped to the table."""
    cell = int(np.clip(np.searchsorted(-falling, -value, side="right") - 1, 0, falling.size - 2))
    share = (falling[cell] - value) / (falling[cell] - falling[cell + 1])
    return cell, float(np.clip(share, 0.0, 1.0))


def _tail_slope(critical: Array) -> float:
    rise = critical[-1] - critical[_LAST_DECADE]
    return float((_LOG_LEVELS[-1] - _LOG_LEVELS[_LAST_DECADE]) / rise)
