"""How the calibration rows of a classifier are parted.

The first quarter, in their (random) order, may be looked at as often as one likes: it chooses the run that
ships, fits the temperature and proposes thresholds. The others prove the error of answers that the device
keeps, and would prove nothing if anything had been chosen by them.
"""

from __future__ import annotations

import math
from pathlib import Path

from toolchain.handover.arrays import Array, load_part

# One number is fitted on the first part; most rows are left to prove the error. On digits a third of the
# rows, finer steps, and a start chosen by the first part's errors each found larger thresholds, or none.
CHOOSING_SHARE = 1 / 4


def choosing_rows(rows: int) -> int:
    """How many of so many calibration rows come first and choose; at least one, if there are any."""
    return math.ceil(rows * CHOOSING_SHARE)


def load_choosing_part(data: Path) -> tuple[Array, Array]:
    """Those of the data step's calibration rows that choose: inputs and labels, as `load_part` gives them."""
    inputs, labels = load_part(data, "calibration")
    count = choosing_rows(len(labels))
    return inputs[:count], labels[:count]
