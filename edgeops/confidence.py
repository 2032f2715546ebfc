"""A classifier's confidence, recalibrated by one temperature: the same numbers when the toolchain chooses the
threshold and when the device compares with it.

Temperature scaling divides logits by T before the softmax (Guo et al., arXiv:1706.04599, section 4.2).
From probabilities p that is p^(1/T) over its sum, since softmax ignores a constant added to all logits.
The predicted class stays the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeops.serving.host import Array


def calibrated(probabilities: Array, temperature: float) -> Array:
    """softmax(log(p) / T) along the last axis, float64, of the same shape; at T = 1 the array itself.

    `probabilities` are not negative, `temperature` is above 0. A row that has a NaN, or nothing but zeros,
    becomes NaN.
    """
    if temperature == 1:
        return probabilities
    powers = _powers(probabilities, probabilities.max(axis=-1, keepdims=True), temperature)
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def confidences(probabilities: Array, temperature: float = 1.0) -> npt.NDArray[np.floating]:
    """The largest calibrated probability of each row: the shape without the last axis."""
    best = probabilities.max(axis=-1, keepdims=True)
    if temperature == 1:
        return np.asarray(best[..., 0])
    return np.asarray(1.0 / _powers(probabilities, best, temperature).sum(axis=-1))


def item_confidences(probabilities: Array, temperature: float = 1.0) -> npt.NDArray[np.floating]:
    """The confidence of each item, shape (items,). Of (items, classes) it is the largest calibrated
    probability; of (items, words, classes) the least of its words' (a row of zeros is no word), NaN of an
    item without any."""
    if probabilities.ndim == 2:
        return confidences(probabilities, temperature)
    words = np.any(probabilities, axis=2)
    of_words = np.where(words, confidences(probabilities, temperature), np.inf)
    return np.where(words.any(axis=1), of_words.min(axis=1, initial=np.inf), np.nan)


def confidence(probabilities: Array, best: float, temperature: float) -> float:
    """The calibrated probability of the largest, `best`, of one row; the array may have any shape. What
    `confidences` gives, in a third of the time, for a caller who knows the largest already."""
    if temperature == 1:
        return best
    if not best > 0:
        return float("nan")
    powers = (probabilities.astype(np.float64) / best) ** (1.0 / temperature)
    return float(1.0 / np.add.reduce(powers, axis=None))


def _powers(probabilities: Array, best: Array, temperature: float) -> Array:
    # Relative to the largest, so that none overflows and at least one is 1.
    with np.errstate(invalid="ignore", divide="ignore"):
        powers: Array = (probabilities.astype(np.float64) / best) ** (1.0 / temperature)
    return powers
