"""The fallback threshold: what it promises holds, on data that it was not chosen on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import binom

from edgeops.confidence import confidences
from toolchain.evaluation.threshold import (
    Judged,
    Target,
    calibrate,
    choose,
    error_bound,
    fit_temperature,
    p_values,
)

TARGET = Target(error=0.05, minimum_accepted=1, confidence_level=0.9)


def world(rows: int, seed: int, *, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a model that is too sure by a factor: labels are drawn from the softened probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4.0, (rows, 4))
    chances = softmax(logits, axis=1)
    labels = (rng.random(rows)[:, None] > chances.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    return softmax(logits * temperature, axis=1), labels.astype(np.int64)


@given(wrong=st.integers(0, 30), more=st.integers(1, 200), level=st.sampled_from([0.8, 0.9, 0.99]))
def test_the_bound_is_where_so_few_errors_become_too_unlikely(wrong: int, more: int, level: float) -> None:
    count = wrong + more
    direct = brentq(lambda rate: binom.cdf(wrong, count, rate) - (1 - level), 1e-12, 1 - 1e-12)
    assert error_bound(wrong, count, level) == pytest.approx(direct, abs=1e-6)
    passes = p_values(np.array([wrong]), np.array([count]), 0.05)[0] <= 1 - level
    assert passes == (error_bound(wrong, count, level) <= 0.05)


def test_no_answers_prove_nothing() -> None:
    assert error_bound(0, 0, 0.9) == 1.0
    assert p_values(np.array([0]), np.array([0]), 0.5)[0] == 1.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_that_was_put_in_is_found_again(temperature: float) -> None:
    probabilities, labels = world(20_000, 1, temperature=temperature)
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_no_longer_than_what_is_sure() -> None:
    probabilities, labels = world(500, 2)
    assert len(f"{fit_temperature(probabilities, labels):g}".replace(".", "").lstrip("0")) <= 4
    right = np.eye(4)[labels] * 0.6 + 0.1
    assert fit_temperature(right, labels) == 1.0
    certain = np.eye(4)[(labels + (np.arange(500) < 50)) % 4]  # probabilities of 0 and 1, some wrong
    assert math.isfinite(fit_temperature(certain, labels))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), rows=st.integers(60, 600))
def test_what_is_found_is_what_the_rows_say(seed: int, rows: int) -> None:
    probabilities, labels = world(rows, seed, temperature=1.5)
    result = calibrate(probabilities, labels, TARGET)
    found = result["found"]
    if found is None:
        assert result["reason"]
        return
    told = found["calibration"]
    confidence = confidences(probabilities, found["temperature"])
    right = probabilities.argmax(axis=1) == labels
    kept = confidence >= found["confidence_threshold"]
    tested = np.arange(rows) >= told["rows_fitted"]
    assert told["rows_kept"] == int((kept & tested).sum())
    assert told["accepted_error"] == pytest.approx(1 - right[kept & tested].mean(), abs=1e-6)
    assert told["fallback_share"] == pytest.approx(1 - kept.mean(), abs=1e-6)
    assert told["accepted_error"] <= told["error_bound"] <= TARGET.error


@pytest.mark.slow
def test_the_promise_holds_on_new_data_as_often_as_it_says() -> None:
    """The true error of accepted answers exceeds the target in at most a tenth of all calibrations."""
    probabilities, labels = world(20_000, 7, temperature=1.5)
    broken = found = 0
    for run in range(150):
        rows = np.random.default_rng(run).choice(len(labels), 400, replace=False)
        result = calibrate(probabilities[rows], labels[rows], Target(0.1, 1, 0.9))
        if result["found"] is None:
            continue
        found += 1
        confidence = confidences(probabilities, result["found"]["temperature"])
        kept = confidence >= result["found"]["confidence_threshold"]
        broken += float((probabilities[kept].argmax(axis=1) != labels[kept]).mean()) > 0.1
    assert found > 100  # it is of use, too
    assert binom.sf(broken - 1, found, 0.1) > 0.001


@settings(deadline=None)
@given(seed=st.integers(0, 500))
def test_a_threshold_is_the_last_of_an_unbroken_sequence_of_proofs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.random(300)
    testing = Judged(confidence, rng.random(300) < 0.9 + 0.1 * confidence)
    proposing = rng.random(100)
    threshold = choose(proposing, testing, TARGET)
    if threshold is not None:
        count, wrong = testing.kept(np.array([threshold]))
        assert p_values(wrong, count, TARGET.error)[0] <= 0.1
        assert threshold == 0 or (proposing >= threshold).any()


@pytest.mark.parametrize(
    ("rows", "target", "reason"),
    [
        (40, TARGET, "45 rightly answered ones are the least"),
        (400, Target(0.2, 500, 0.9), "400 rows are kept, and 500 are the least"),
        (400, Target(0.001, 1, 0.9), "rows cannot prove"),
    ],
)
def test_too_little_data_finds_nothing_and_says_why(rows: int, target: Target, reason: str) -> None:
    result = calibrate(*world(rows, 3), target)
    assert result["found"] is None
    assert reason in result["reason"]


def test_a_model_that_guesses_gets_no_threshold() -> None:
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(500, 4)), axis=1)
    result = calibrate(probabilities, rng.integers(0, 4, 500), TARGET)
    assert result["found"] is None
    assert "no threshold" in result["reason"]
    assert len(result["curve"]) > 10


def test_the_curve_falls_to_the_error_of_all_answers() -> None:
    curve = calibrate(*world(2_000, 5), TARGET)["curve"]
    assert [one["coverage"] for one in curve] == sorted((one["coverage"] for one in curve), reverse=True)
    assert curve[0]["coverage"] == 1.0
    assert curve[-1]["error"] < curve[0]["error"]
    assert all(one["error"] <= one["error_bound"] for one in curve)
