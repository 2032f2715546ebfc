"""Quality of a classifier from its probabilities and the true labels.

What is classified is an *item*: a row, or for token classification a word. An item whose probabilities are
all zero got no answer (a word that truncation cut off) and counts as wrong, with confidence 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeops.errors import ArtifactError
from toolchain.evaluation.report import Bin, Figures, rounded, two_digits
from toolchain.handover.arrays import Array

BINS = 10
# The label of what is no item, as in transformers' token classification.
NO_ITEM = -100
_SMALLEST = 1e-12
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Items:
    """`probabilities` is float64 of shape (items, classes), `labels` int64 of shape (items,), and `rows` the
    number of the row that each item is of."""

    probabilities: Array
    labels: Array
    rows: Array

    @property
    def predicted(self) -> Array:
        """The most probable class of each item, -1 where there is no answer."""
        answered = self.probabilities.any(axis=1)
        return np.where(answered, self.probabilities.argmax(axis=1), -1)

    @property
    def right(self) -> Array:
        """Whether each item's most probable class is its label."""
        right: Array = self.predicted == self.labels
        return right

    def where(self, chosen: Array) -> Items:
        """The items for which the boolean array says so."""
        return Items(self.probabilities[chosen], self.labels[chosen], self.rows[chosen])


def items_of(answers: Array, labels: Array, classes: Sequence[str], subject: str) -> Items:
    """The items of `answers`, of shape (rows, classes) with `labels` (rows,), or of shape (rows, words,
    classes) with `labels` (rows, words), -100 where there is no word; words for which `answers` has no
    place, or NaN, got no answer.

    Raises `ArtifactError` about `subject` if the answers do not fit the classes or are no probabilities.
    """
    if answers.ndim != labels.ndim + 1 or answers.shape[-1] != len(classes) or len(answers) != len(labels):
        raise _unfit(subject, f"gives values of shape {answers.shape[1:]} a row for {len(classes)} classes")
    if labels.ndim == 1:
        values, wanted, rows = answers.astype(np.float64), labels, np.arange(len(labels))
    else:
        rows, words = np.nonzero(labels != NO_ITEM)
        wanted = labels[rows, words]
        values = np.zeros((len(rows), len(classes)))
        inside = words < answers.shape[1]
        values[inside] = np.nan_to_num(answers[rows[inside], words[inside]].astype(np.float64), nan=0.0)
    if not len(wanted):
        raise _unfit(subject, "has nothing held out to classify")
    if not np.all(np.isfinite(values)):
        raise _unfit(subject, "gives values that are not finite")
    sums = values.sum(axis=1)
    off = np.abs(sums - 1) > _SUM_TOLERANCE
    if labels.ndim > 1:
        off &= values.any(axis=1)
    if values.min() < -_SUM_TOLERANCE or off.any():
        raise _unfit(
            subject, f"gives values that are no probabilities: a row's sum is {sums[off][:1] or sums[:1]}"
        )
    return Items(np.maximum(values, 0.0), wanted.astype(np.int64), rows.astype(np.int64))


def figures(items: Items, classes: Sequence[str]) -> Figures:
    """The figures that gates can judge.

    `nll` is the mean negative log-likelihood in nats; `ece` the expected calibration error over ten equal
    bins of confidence (Guo et al., arXiv:1706.04599, equation 3); `macro_f1` the mean F1 score, and
    `worst_class_accuracy` the least share found (recall), both over the classes that items have.
    """
    matrix = _counts(items, len(classes))
    present = np.array([bool((items.labels == index).any()) for index in range(len(classes))])
    recalls = [float(items.right[items.labels == index].mean()) for index in np.flatnonzero(present)]
    return {
        **part_figures(items),
        "worst_class_accuracy": rounded(min(recalls)),
        "macro_f1": rounded(_f1(matrix, items)[present].mean()),
    }


def part_figures(items: Items) -> Figures:
    """The figures that make sense for the items of one class, too."""
    confidence = items.probabilities.max(axis=1)
    likelihood = items.probabilities[np.arange(len(items.labels)), items.labels]
    return {
        "accuracy": rounded(items.right.mean()),
        "nll": rounded(-np.log(np.maximum(likelihood, _SMALLEST)).mean()),
        "ece": rounded(calibration_error(confidence, items.right)),
        "mean_confidence": rounded(confidence.mean()),
    }


def parity(got: Items, want: Items) -> Figures:
    """How far two models' answers to the same items lie apart: the largest absolute difference of
    probabilities, to two digits, and the share of items with the same most probable class."""
    return {
        "parity_max_abs": two_digits(float(np.abs(got.probabilities - want.probabilities).max())),
        "parity_agreement": rounded((got.predicted == want.predicted).mean()),
    }


def confusion(items: Items, classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """How often each class (the row) was taken for each (the column). Items without an answer are in none."""
    return tuple(tuple(int(count) for count in line) for line in _counts(items, len(classes)))


def reliability(items: Items) -> tuple[Bin, ...]:
    """Confidence against accuracy in ten equal bins of confidence."""
    confidence = items.probabilities.max(axis=1)
    place, right = _places(confidence), items.right
    bins = []
    for number in range(BINS):
        inside = place == number
        some = bool(inside.any())
        bins.append(
            Bin(
                start=number / BINS,
                end=(number + 1) / BINS,
                rows=int(inside.sum()),
                confidence=rounded(confidence[inside].mean()) if some else None,
                accuracy=rounded(right[inside].mean()) if some else None,
            )
        )
    return tuple(bins)


def calibration_error(confidence: Array, right: Array) -> float:
    """The expected calibration error over ten equal bins (see `figures`)."""
    place = _places(confidence)
    return sum(
        abs(float(right[place == b].mean()) - float(confidence[place == b].mean()))
        * float((place == b).mean())
        for b in range(BINS)
        if np.any(place == b)
    )


def _places(confidence: Array) -> Array:
    places: Array = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return places


def _counts(items: Items, classes: int) -> Array:
    matrix: Array = np.zeros((classes, classes), dtype=np.int64)
    answered = items.predicted >= 0
    np.add.at(matrix, (items.labels[answered], items.predicted[answered]), 1)
    return matrix


def _f1(matrix: Array, items: Items) -> Array:
    """F1 of each class, 2 TP / (2 TP + FP + FN): 0 where none was found."""
    found = np.diag(matrix)
    labelled = np.bincount(items.labels, minlength=len(matrix))
    scores: Array = 2 * found / np.maximum(labelled + matrix.sum(axis=0), 1)
    return scores


def _unfit(subject: str, what: str) -> ArtifactError:
    return ArtifactError(f"{subject} {what}.", remedy="Look at the model and its export.", subject=subject)
