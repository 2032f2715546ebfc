"""The digits data: 1,797 images of 8 × 8 pixels with values 0 to 16, and the digit that each shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.dataset import Dataset, split_rows

# The recipes of this folder split by the same figures, so that what is held out here trained nothing.
SPLIT_SEED = 20260101
CALIBRATION_SHARE = 0.15
HELD_OUT_SHARE = 0.3


def load() -> Dataset:
    """All rows: inputs (1797, 1, 8, 8) with values 0 to 16, labels 0 to 9, in scikit-learn's order."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Dataset(
        inputs=digits.images.astype(np.float32)[:, np.newaxis],
        labels=digits.target.astype(np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        source=(
            "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; UCI Machine Learning "
            "Repository, doi:10.24432/C50P49), as scikit-learn's load_digits ships it"
        ),
        license="CC-BY-4.0",
    )


def held_out() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The 539 inputs and labels that no recipe of this folder trains or calibrates on.

    Without this package: rows `numpy.random.default_rng(20260101).permutation(1797)[-539:]` of
    `sklearn.datasets.load_digits()`, in that order.
    """
    data = load()
    rows = split_rows(
        len(data.labels), seed=SPLIT_SEED, calibration=CALIBRATION_SHARE, held_out=HELD_OUT_SHARE
    ).held_out
    return data.inputs[rows], data.labels[rows]
