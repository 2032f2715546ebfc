"""Quality of a classifier from its probabilities and the true labels. Figures are rounded to six digits:
what lies beyond is the machine's rounding, and reports are part of a bundle's identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeops.errors import ArtifactError
from toolchain.steps.arrays import Array

ECE_BINS = 10
_SMALLEST = 1e-12


def quality(probabilities: Array, labels: Array, classes: Sequence[str]) -> dict[str, Any]:
    """The figures that gates can judge, and the accuracy of each class.

    `probabilities` is float of shape (rows, classes), `labels` int64 of shape (rows,). `nll` is the mean
    negative log-likelihood in nats; `ece` the expected calibration error over ten equal bins of confidence
    (Guo et al., arXiv:1706.04599, equation 3). A class that no row has is None.
    Raises `ArtifactError` if the probabilities are not finite or do not fit the labels.
    """
    if probabilities.shape != (len(labels), len(classes)) or not np.all(np.isfinite(probabilities)):
        raise ArtifactError(
            f"The model gives {probabilities.shape[1:]} values a row, or values that are not finite.",
            remedy="Look at the network and its export.",
            subject="probabilities",
        )
    values = probabilities.astype(np.float64)
    predicted = values.argmax(axis=1)
    right = predicted == labels
    confidence = values.max(axis=1)
    likelihood = values[np.arange(len(labels)), labels]
    by_class = {name: _share(right[labels == index]) for index, name in enumerate(classes)}
    seen = [value for value in by_class.values() if value is not None]
    return {
        "rows": len(labels),
        "accuracy": _rounded(right.mean()),
        "worst_class_accuracy": min(seen),
        "class_accuracy": by_class,
        "nll": _rounded(-np.log(np.maximum(likelihood, _SMALLEST)).mean()),
        "ece": _rounded(_calibration_error(confidence, right)),
        "mean_confidence": _rounded(confidence.mean()),
    }


def parity(got: Array, want: Array) -> dict[str, Any]:
    """How far two sets of probabilities, both (rows, classes), lie apart: the largest absolute difference,
    to two digits, and the share of rows with the same most probable class."""
    difference = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max())
    return {
        "parity_max_abs": float(f"{difference:.1e}"),
        "parity_agreement": _rounded((got.argmax(axis=1) == want.argmax(axis=1)).mean()),
    }


def _calibration_error(confidence: Array, right: Array) -> float:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [
        abs(float(right[bins == b].mean()) - float(confidence[bins == b].mean())) * float((bins == b).mean())
        for b in range(ECE_BINS)
        if np.any(bins == b)
    ]
    return sum(gaps)


def _share(right: Array) -> float | None:
    return _rounded(right.mean()) if right.size else None


def _rounded(value: float) -> float:
    return round(float(value), 6)
