"""Ranges from calibration rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgeops.errors import ArtifactError, ConfigError
from edgeops.serving.host import Array
from edgeops_testkit.onnx_models import model_of
from quantize.calibration import Range, activation_ranges

DOUBLE = model_of(
    [helper.make_node("Add", ["x", "x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
    {},
    inputs={"x": ["n", "m"]},
    outputs={"y": ["n", "m"]},
)


def _one(values: Array) -> list[dict[str, Array]]:
    return [{"x": values.astype(np.float32).reshape(1, -1)}]


def test_minmax_is_all_that_was_seen_in_all_batches() -> None:
    data = [{"x": np.array([[1.0, -2.0]], np.float32)}, {"x": np.array([[0.5], [7.0]], np.float32)}]
    ranges = activation_ranges(DOUBLE, ["x", "h", "y"], data, method="minmax")
    assert ranges == {"x": Range(-2, 7), "h": Range(-4, 14), "y": Range(0, 14)}


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.sampled_from(["minmax", "percentile", "entropy"]),
)
def test_a_range_holds_zero_and_nothing_that_was_not_seen(values: list[float], method: str) -> None:
    data = _one(np.array(values))
    found = activation_ranges(DOUBLE, ["x"], data, method=method)["x"]
    seen = activation_ranges(DOUBLE, ["x"], data, method="minmax")["x"]
    slack = 1e-6 * (seen.high - seen.low)
    assert seen.low - slack <= found.low <= 0 <= found.high <= seen.high + slack


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_the_least_numbers_of_32_bits_have_a_range(method: str) -> None:
    least = float(np.finfo(np.float32).smallest_subnormal)
    found = activation_ranges(DOUBLE, ["x"], _one(np.array([least, 3 * least])), method=method)["x"]
    assert 0 < found.high <= 3 * least


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_rare_values_far_out_are_cut_off(method: str) -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[0], values[1] = 60.0, -60.0
    found = activation_ranges(DOUBLE, ["x"], _one(values), method=method)["x"]
    assert 2 < found.high < 10
    assert -10 < found.low < -2


def test_a_percentile_keeps_its_share() -> None:
    values = np.random.default_rng(0).uniform(-1, 3, size=100_000)
    found = activation_ranges(DOUBLE, ["x"], _one(values), method="percentile", percentile=90)["x"]
    kept = np.mean((values >= found.low) & (values <= found.high))
    assert abs(kept - 0.9) < 0.005


def test_entropy_keeps_all_of_values_that_are_spread_evenly() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, size=100_000)
    found = activation_ranges(DOUBLE, ["x"], _one(values), method="entropy")["x"]
    assert found.high > 0.95
    assert found.low < -0.95


def test_entropy_is_not_decided_by_zeros() -> None:
    """After a ReLU half of the values are; the others should be clipped as they would be alone."""
    values = np.abs(np.random.default_rng(0).normal(size=50_000)).astype(np.float32)
    alone = activation_ranges(DOUBLE, ["x"], _one(values), method="entropy")["x"]
    beside = np.concatenate([values, np.zeros(950_000, np.float32)])
    assert activation_ranges(DOUBLE, ["x"], _one(beside), method="entropy")["x"] == alone
    assert alone.high > 2.5


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ArtifactError, match="calibration data"):
        activation_ranges(DOUBLE, ["h"], [{"x": np.zeros((1, 2, 3), np.float32)}], method="minmax")
    for value in (np.nan, np.inf):
        with pytest.raises(ArtifactError, match="not finite"):
            activation_ranges(DOUBLE, ["h"], _one(np.array([1.0, value])), method="minmax")
    with pytest.raises(ConfigError, match="at least one row"):
        activation_ranges(DOUBLE, ["h"], [], method="minmax")
    for options in ({"method": "kl"}, {"method": "percentile", "percentile": 20}):
        with pytest.raises(ConfigError, match="no calibration by"):
            activation_ranges(DOUBLE, ["h"], _one(np.ones(2)), **options)
