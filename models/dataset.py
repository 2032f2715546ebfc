"""What a recipe's data factory returns, and the one rule by which rows are split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Dataset:
    """Labelled rows for a classifier.

    `inputs` is float32 of shape (rows, …), as clients send it: what preprocessing there is stands in the
    network. `labels` is int64 of shape (rows,), each an index into `classes`. `source` says in a line
    where the data comes from, `license` under which terms (an SPDX identifier).
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    license: str


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts. They are disjoint, and together they are all rows."""

    train: npt.NDArray[np.int64]
    calibration: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def split_rows(rows: int, *, seed: int, calibration: float, held_out: float) -> Split:
    """Splits `rows` by one permutation, `numpy.random.default_rng(seed).permutation(rows)`: its last
    `int(rows * held_out)` entries are held out, the `int(rows * calibration)` before them calibrate,
    and what comes first trains. The shares must be positive, and below 1 together (`ValueError`)."""
    if min(calibration, held_out) <= 0 or calibration + held_out >= 1:
        raise ValueError(f"shares {calibration} and {held_out} leave nothing to train on")
    order = np.random.default_rng(seed).permutation(rows).astype(np.int64)
    end = rows - int(rows * held_out)
    start = end - int(rows * calibration)
    return Split(train=order[:start], calibration=order[start:end], held_out=order[end:])
