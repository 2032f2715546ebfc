"""Recalibrated confidence: the formula, and the device's quick way against the toolchain's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.confidence import calibrated, confidence, confidences, item_confidences
from edgeops.serving.host import Array

TEMPERATURES = st.floats(0.05, 20)
LOGITS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=st.floats(-8, 8, width=32)
)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


@given(LOGITS, TEMPERATURES)
def test_it_is_the_softmax_of_the_logits_over_the_temperature(logits: Array, temperature: float) -> None:
    got = calibrated(softmax(logits.astype(np.float64)), temperature)
    np.testing.assert_allclose(got, softmax(logits.astype(np.float64) / temperature), rtol=1e-6, atol=1e-9)
    assert got.shape == logits.shape


@given(LOGITS, TEMPERATURES)
def test_the_devices_number_is_the_toolchains(logits: Array, temperature: float) -> None:
    probabilities = softmax(logits).astype(np.float32)
    rows = confidences(probabilities, temperature)
    np.testing.assert_allclose(rows, calibrated(probabilities, temperature).max(axis=-1), rtol=1e-12)
    for number, row in enumerate(probabilities):
        alone = confidence(row[None], float(row.max()), temperature)
        assert alone == pytest.approx(rows[number], rel=1e-12)


@given(LOGITS, TEMPERATURES)
def test_a_higher_temperature_is_less_sure(logits: Array, temperature: float) -> None:
    probabilities = softmax(logits.astype(np.float64))
    assert np.all(
        confidences(probabilities, temperature * 1.5) <= confidences(probabilities, temperature) + 1e-12
    )


def test_at_temperature_one_nothing_is_touched() -> None:
    probabilities = np.array([[0.25, 0.75], [0.0, 0.0]], np.float32)
    assert calibrated(probabilities, 1.0) is probabilities
    assert confidences(probabilities).tolist() == [0.75, 0.0]
    assert confidence(probabilities[0], 0.75, 1.0) == 0.75


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_probability_of_zero_stays_zero(temperature: float) -> None:
    row = np.array([[0.0, 0.2, 0.8]], np.float32)
    assert calibrated(row, temperature)[0, 0] == 0
    assert calibrated(row, temperature).sum() == pytest.approx(1)
    assert math.isfinite(confidence(row, float(row.max()), temperature))


@pytest.mark.parametrize("row", [[0.0, 0.0], [math.nan, 0.5]])
def test_what_has_no_largest_has_no_confidence(row: list[float]) -> None:
    array = np.array([row], np.float32)
    assert np.isnan(calibrated(array, 2.0)).all()
    assert np.isnan(confidences(array, 2.0)).all()
    assert math.isnan(confidence(array, float(array.max()), 2.0))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_text_is_as_sure_as_its_least_sure_word(temperature: float) -> None:
    nothing = [0.0, 0.0]
    words = np.array(
        [[[0.9, 0.1], [0.4, 0.6], nothing], [[0.8, 0.2], nothing, nothing], [nothing] * 3], np.float32
    )
    got = item_confidences(words, temperature)
    expected = confidences(np.array([[0.4, 0.6], [0.8, 0.2]], np.float32), temperature)
    np.testing.assert_allclose(got[:2], expected)
    assert np.isnan(got[2])
    assert np.isnan(item_confidences(np.zeros((2, 0, 3), np.float32), temperature)).all()
    np.testing.assert_array_equal(
        item_confidences(words[:, 0], temperature), confidences(words[:, 0], temperature)
    )
