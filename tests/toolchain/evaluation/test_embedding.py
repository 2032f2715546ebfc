"""Embeddings: neighbours and cosines, against a direct computation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from edgeops.errors import ArtifactError
from toolchain.evaluation.embedding import (
    judged_rows,
    nearest,
    neighbours_right,
    parity,
    same_neighbours,
    unit_vectors,
)


@given(seed=st.integers(0, 50))
def test_the_nearest_other_row_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit_vectors(rng.normal(size=(40, 5)), "it")
    found = KNeighborsClassifier(n_neighbors=2, metric="cosine").fit(vectors, np.zeros(40))
    _, places = found.kneighbors(vectors)
    assert nearest(vectors, vectors).tolist() == places[:, 1].tolist()


def test_neighbours_are_found_across_blocks_of_rows() -> None:
    centres = np.eye(4)
    labels = np.arange(1200) % 4
    vectors = unit_vectors(centres[labels] + np.random.default_rng(0).normal(0, 0.01, (1200, 4)), "it")
    assert neighbours_right(vectors, vectors, labels).all()


def test_a_row_whose_label_no_other_has_cannot_be_judged() -> None:
    assert judged_rows(np.array([1, 2, 1, 3])).tolist() == [True, False, True, False]


def test_a_turned_row_shows_in_parity() -> None:
    vectors = unit_vectors(np.random.default_rng(1).normal(size=(20, 6)), "it")
    assert parity(vectors, vectors) == {
        "cosine_min": 1.0,
        "parity_max_abs": 0.0,
        "parity_agreement": 1.0,
    }
    turned = vectors.copy()
    turned[3] = -turned[3]
    assert parity(turned, vectors)["cosine_min"] == -1.0
    assert not same_neighbours(turned, vectors)[3]


@pytest.mark.parametrize("bad", [[[0.0, 0.0]], [[np.nan, 1.0]], [1.0, 2.0]])
def test_what_has_no_direction_is_refused(bad: list[object]) -> None:
    with pytest.raises(ArtifactError):
        unit_vectors(np.array(bad), "it")
    with pytest.raises(ArtifactError):
        parity(np.ones((2, 3)), np.ones((2, 4)))
