"""A classifier's figures: by hand, and against scikit-learn's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from edgeops.errors import ArtifactError
from toolchain.evaluation import classification
from toolchain.evaluation.classification import NO_ITEM, Items, figures, items_of, parity

CLASSES = ("cat", "dog", "eel")


@st.composite
def answered(draw: st.DrawFn) -> Items:
    rows = draw(st.integers(1, 30))
    raw = draw(hnp.arrays(np.float64, (rows, 3), elements=st.floats(0.01, 1)))
    labels = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 2)))
    return items_of(raw / raw.sum(axis=1, keepdims=True), labels, CLASSES, "it")


@settings(max_examples=30)
@given(items=answered())
def test_the_figures_are_scikit_learns(items: Items) -> None:
    told = figures(items, CLASSES)
    predicted = items.probabilities.argmax(axis=1)
    present = sorted(set(items.labels.tolist()))
    assert told["accuracy"] == pytest.approx(accuracy_score(items.labels, predicted), abs=1e-6)
    f1 = f1_score(items.labels, predicted, labels=present, average="macro", zero_division=0)
    assert told["macro_f1"] == pytest.approx(f1, abs=1e-6)
    recalls = recall_score(items.labels, predicted, labels=present, average=None)
    assert told["worst_class_accuracy"] == pytest.approx(recalls.min(), abs=1e-6)
    matrix = confusion_matrix(items.labels, predicted, labels=[0, 1, 2])
    assert np.array_equal(classification.confusion(items, CLASSES), matrix)


@given(items=answered())
def test_the_calibration_error_is_what_the_reliability_bins_say(items: Items) -> None:
    bins = classification.reliability(items)
    assert sum(one.rows for one in bins) == len(items.labels)
    gaps = [
        one.rows * abs(one.confidence - one.accuracy)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]
    assert figures(items, CLASSES)["ece"] == pytest.approx(sum(gaps) / len(items.labels), abs=1e-5)


def test_figures_of_a_small_table_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    told = figures(items_of(probabilities, np.array([0, 1, 1, 0]), ("cat", "dog"), "it"), ("cat", "dog"))
    assert told["accuracy"] == 0.75
    assert told["worst_class_accuracy"] == 0.5
    assert told["mean_confidence"] == 0.75
    assert told["nll"] == pytest.approx(-math.log(0.9 * 0.4 * 0.8 * 0.7) / 4, abs=1e-6)
    # Four bins of one row each: |1-.9|, |0-.6|, |1-.8|, |1-.7|, each with weight 1/4.
    assert told["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4, abs=1e-6)


def test_words_are_the_items_of_token_classification() -> None:
    answers = np.zeros((2, 3, 2), np.float32)
    answers[0] = [[0.9, 0.1], [0.2, 0.8], [np.nan, np.nan]]
    answers[1] = [[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]]
    labels = np.array([[0, 1, NO_ITEM], [1, 1, 0]])
    items = items_of(answers, labels, ("a", "b"), "it")
    assert items.rows.tolist() == [0, 0, 1, 1, 1]
    assert items.labels.tolist() == [0, 1, 1, 1, 0]
    assert items.right.tolist() == [True, True, True, False, True]


def test_a_word_that_was_cut_off_is_wrong_and_in_no_column() -> None:
    answers = np.array([[[0.9, 0.1], [0.0, 0.0]]])
    labels = np.array([[0, 0, 1]])  # the third word has no place in the answers at all
    items = items_of(answers, labels, ("a", "b"), "it")
    assert items.predicted.tolist() == [0, -1, -1]
    assert figures(items, ("a", "b"))["accuracy"] == pytest.approx(1 / 3, abs=1e-6)
    assert classification.confusion(items, ("a", "b")) == ((1, 0), (0, 0))


@pytest.mark.parametrize(
    ("answers", "labels"),
    [
        (np.array([[np.nan, 1.0]]), np.array([0])),
        (np.array([[1.0, 0.0, 0.0]]), np.array([0])),
        (np.array([[3.0, -1.0]]), np.array([0])),  # logits
        (np.array([[0.9, 0.9]]), np.array([0])),
        (np.array([[0.0, 0.0]]), np.array([0])),
        (np.array([[0.5, 0.5]]), np.array([[0]])),
        (np.array([[[0.7, 0.7]]]), np.array([[0]])),
        (np.array([[[0.7, 0.3]]]), np.array([[NO_ITEM]])),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(answers: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ArtifactError) as refused:
        items_of(answers, labels, ("cat", "dog"), "onnx-int8")
    assert refused.value.subject == "onnx-int8"


def test_a_scaled_weight_shows_in_parity() -> None:
    rng = np.random.default_rng(1)
    inputs, weights, labels = rng.normal(size=(50, 8)), rng.normal(size=(8, 3)), np.zeros(50, np.int64)

    def answers(w: np.ndarray) -> Items:
        scores = np.exp(inputs @ w)
        return items_of(scores / scores.sum(axis=1, keepdims=True), labels, CLASSES, "it")

    damaged = weights.copy()
    damaged[2, 1] *= 1.5
    assert parity(answers(weights), answers(weights)) == {"parity_max_abs": 0.0, "parity_agreement": 1.0}
    moved = parity(answers(damaged), answers(weights))["parity_max_abs"]
    assert moved is not None
    assert moved > 0.01
