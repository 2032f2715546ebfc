"""Gates, metrics, the fallback threshold and the distillation's verdict: laws of pure functions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.errors import ArtifactError
from toolchain.recipe import Gate
from toolchain.steps.calibrate import threshold
from toolchain.steps.gain import summary
from toolchain.steps.gate import judge, judge_fallback
from toolchain.steps.metrics import parity, quality

NUMBER = st.floats(-10, 10)


@given(value=NUMBER, low=NUMBER, high=NUMBER)
def test_a_gate_passes_exactly_inside_its_bounds(value: float, low: float, high: float) -> None:
    gate = Gate(metric="nll", variant="a", at_least=low, at_most=high)
    assert judge(gate, {"a": {"nll": value}})["passed"] == (low <= value <= high)


@given(one=NUMBER, other=NUMBER, most=NUMBER)
def test_a_drop_is_how_far_the_metric_lies_below_the_other_variants(
    one: float, other: float, most: float
) -> None:
    gate = Gate(metric="accuracy", variant="a", drop_against="b", at_most=most)
    outcome = judge(gate, {"a": {"accuracy": one}, "b": {"accuracy": other}})
    assert outcome["value"] == round(other - one, 6)
    assert outcome["passed"] == (outcome["value"] <= most)


@pytest.mark.parametrize(
    "gate",
    [
        Gate(metric="accuracy", variant="nobody", at_least=0),
        Gate(metric="nll", variant="a", at_most=9),
        Gate(metric="accuracy", variant="a", slice="7", at_least=0),
        Gate(metric="accuracy", variant="a", slice="empty", at_least=0),
        Gate(metric="accuracy", variant="a", drop_against="nobody", at_most=1),
    ],
)
def test_missing_figures_fail(gate: Gate) -> None:
    figures = {"a": {"accuracy": 1.0, "class_accuracy": {"1": 1.0, "empty": None}}}
    outcome = judge(gate, figures)
    assert (outcome["passed"], outcome["value"]) == (False, None)


def test_a_slice_is_judged_alone() -> None:
    figures = {"a": {"accuracy": 0.9, "class_accuracy": {"1": 1.0, "2": 0.1}}}
    gates = [Gate(metric="accuracy", variant="a", slice=name, at_least=0.5) for name in "12"]
    assert [judge(gate, figures)["passed"] for gate in gates] == [True, False]
    assert gates[1].name == "accuracy[2] of a >= 0.5"


def test_a_threshold_that_was_not_found_fails() -> None:
    fallback = {"judged": "a", "target_error": 0.1, "found": None}
    assert judge_fallback(fallback)["passed"] is False
    found = {"calibration": {"accepted_error": 0.05}}
    assert judge_fallback({**fallback, "found": found})["passed"] is True


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.integers(1, 40))
    confidence = draw(hnp.arrays(np.float32, rows, elements=st.floats(0, 1, width=32)))
    return confidence, draw(hnp.arrays(bool, rows))


@given(data=answers(), target=st.floats(0.01, 0.9), least=st.integers(1, 10))
def test_the_threshold_is_the_smallest_that_keeps_the_target(
    data: tuple[np.ndarray, np.ndarray], target: float, least: int
) -> None:
    confidence, right = data

    def holds(candidate: float) -> bool:
        kept = confidence >= candidate
        return bool(kept.sum() >= least) and float(1 - right[kept].mean()) <= target

    smaller = [0.0, *sorted(float(value) for value in confidence)]
    found = threshold(confidence, right, target_error=target, minimum_accepted=least)
    if found is None:
        assert not any(holds(candidate) for candidate in smaller)
    else:
        chosen = found["confidence_threshold"]
        assert holds(chosen)
        assert not any(holds(candidate) for candidate in smaller if candidate < chosen)
        share = float((confidence < chosen).mean())
        assert found["calibration"]["fallback_share"] == pytest.approx(share, abs=1e-6)


def test_quality_of_a_small_table_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], dtype=np.float64)
    figures = quality(probabilities, np.array([0, 1, 1, 0]), ["cat", "dog"])
    assert figures["accuracy"] == 0.75
    assert figures["class_accuracy"] == {"cat": 1.0, "dog": 0.5}
    assert figures["worst_class_accuracy"] == 0.5
    assert figures["mean_confidence"] == 0.75
    assert figures["nll"] == pytest.approx(-math.log(0.9 * 0.4 * 0.8 * 0.7) / 4, abs=1e-6)
    # Four bins of one row each: |1-.9|, |0-.6|, |1-.8|, |1-.7|, each with weight 1/4.
    assert figures["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4, abs=1e-6)


def test_an_empty_class_is_none_and_not_perfect() -> None:
    figures = quality(np.array([[0.9, 0.1]]), np.array([0]), ["cat", "dog"])
    assert figures["class_accuracy"] == {"cat": 1.0, "dog": None}


@pytest.mark.parametrize("bad", [np.array([[np.nan, 1.0]]), np.array([[1.0, 0.0, 0.0]])])
def test_answers_that_are_no_probabilities_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ArtifactError):
        quality(bad, np.array([0]), ["cat", "dog"])


def test_a_scaled_weight_shows_in_parity() -> None:
    rng = np.random.default_rng(1)
    inputs, weights = rng.normal(size=(50, 8)), rng.normal(size=(8, 3))

    def probabilities(w: np.ndarray) -> np.ndarray:
        scores = np.exp(inputs @ w)
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    damaged = weights.copy()
    damaged[2, 1] *= 1.5
    same = parity(probabilities(weights), probabilities(weights))
    other = parity(probabilities(damaged), probabilities(weights))
    assert same == {"parity_max_abs": 0.0, "parity_agreement": 1.0}
    assert other["parity_max_abs"] > 0.01
    gate = Gate(metric="parity_max_abs", variant="a", at_most=1e-4)
    assert [judge(gate, {"a": figures})["passed"] for figures in (same, other)] == [True, False]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.02], "unclear"),
        ([0.02, 0.021, 0.019], "helps"),
        ([-0.02, -0.021, -0.019], "hurts"),
        ([0.02, -0.01, 0.0], "unclear"),
        ([0.02, 0.005, 0.035], "unclear"),  # two standard errors from 0, but only three seeds
    ],
)
def test_the_verdict_on_distilling_needs_evidence(gains: list[float], verdict: str) -> None:
    runs = [{"seed": i, "alone": 0.9, "distilled": 0.9 + gain} for i, gain in enumerate(gains)]
    told = summary(runs)
    assert told["verdict"] == verdict
    assert told["mean_gain"] == pytest.approx(sum(gains) / len(gains), abs=1e-6)
