"""What a recipe's data factory returns, and the one rule by which rows are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Dataset:
    """Labelled rows, as clients send them: what preprocessing there is stands in the model.

    `inputs` is float32 of shape (rows, …), or text: a NumPy array of `str` (`<U…`) of shape (rows,).
    `labels` is int64, each an index into `classes`: of shape (rows,), or for token classification
    (rows, words) over the words that single spaces part, with -100 past a row's end. For feature extraction
    they tell which rows belong together. `attributes` are texts of shape (rows,) by name, such as the site
    of each row: slices and groups are taken by them. `source` says in a line where the data comes from,
    `license` under which terms (an SPDX identifier).
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    license: str
    attributes: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """Documents for a causal language model, in an order that does not change."""

    documents: tuple[str, ...]
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
