"""Quality of embeddings: do rows that belong together lie together, and where the source model puts them?"""

from __future__ import annotations

import numpy as np

from edgeops.errors import ArtifactError
from toolchain.evaluation.report import Figures, rounded, two_digits
from toolchain.handover.arrays import Array

_BLOCK_ROWS = 512


def unit_vectors(vectors: Array, subject: str) -> Array:
    """The vectors, of shape (rows, dimensions), at length 1 in float64. Raises `ArtifactError` if one is not
    finite or zero: it has no direction."""
    values = vectors.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True) if values.ndim == 2 else np.zeros(1)
    if values.ndim != 2 or not np.all(np.isfinite(values)) or not np.all(lengths > 0):
        raise ArtifactError(
            f"{subject} gives vectors that are zero, not finite, or not one a row.",
            remedy="Look at the model and its export.",
            subject=subject,
        )
    units: Array = values / lengths
    return units


def nearest(queries: Array, others: Array) -> Array:
    """For each row of `queries` the number of the row of `others`, but for the one of its own number, whose
    cosine with it is largest (of equals the first). Both are unit vectors of the same shape."""
    found = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK_ROWS):
        cosines = queries[start : start + _BLOCK_ROWS] @ others.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        found[start : start + _BLOCK_ROWS] = cosines.argmax(axis=1)
    return found


def judged_rows(labels: Array) -> Array:
    """Which rows can have a neighbour of their label at all: those whose label another row has too."""
    values, counts = np.unique(labels, return_counts=True)
    shared: Array = np.isin(labels, values[counts > 1])
    return shared


def neighbours_right(queries: Array, others: Array, labels: Array) -> Array:
    """Whether each row's nearest other row has its label (leave-one-out, by cosine)."""
    right: Array = labels[nearest(queries, others)] == labels
    return right


def parity(got: Array, want: Array) -> Figures:
    """How far unit vectors `got` lie from the source's `want`: the least cosine of a row, the largest
    absolute difference of an element, and the share of rows whose nearest neighbour is the same."""
    if got.shape != want.shape:
        raise ArtifactError(
            f"The variant gives {got.shape[1]} numbers a row, and the model itself {want.shape[1]}.",
            remedy="Look at the model and its export.",
            subject="embedding",
        )
    return {
        **row_parity(got, want),
        "parity_agreement": rounded(same_neighbours(got, want).mean()),
    }


def same_neighbours(got: Array, want: Array) -> Array:
    """Whether each row has the same nearest neighbour in both."""
    same: Array = nearest(got, got) == nearest(want, want)
    return same


def row_parity(got: Array, want: Array) -> Figures:
    """What of `parity` each row has by itself."""
    cosines = np.minimum((got * want).sum(axis=1), 1.0)
    return {
        "cosine_min": rounded(float(cosines.min())),
        "parity_max_abs": two_digits(float(np.abs(got - want).max())),
    }
