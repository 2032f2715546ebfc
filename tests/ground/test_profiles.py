"""The reference profile: exact, deterministic, and refused when it does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.errors import ArtifactError
from edgeops.profiles import GRID_POINTS, ReferenceProfile, reference_feature, reference_profile

COLUMNS = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e3, 1e3, width=32))


@given(COLUMNS)
def test_the_grid_is_the_inverse_distribution(values: np.ndarray) -> None:
    feature = reference_feature(values)
    grid = np.array(feature.quantiles)
    assert len(grid) == GRID_POINTS
    assert np.all(np.diff(grid) >= 0)
    assert set(grid) <= set(values.astype(np.float64))
    assert (grid[0], grid[-1]) == (values.min(), values.max())
    # At least a share p of the values lies at or below the quantile of p.
    for index in (0, GRID_POINTS // 3, GRID_POINTS - 1):
        assert np.mean(values <= grid[index]) >= index / (GRID_POINTS - 1) - 1e-12


@given(COLUMNS, st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(values: np.ndarray, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(values)
    assert reference_feature(shuffled).quantiles == reference_feature(values).quantiles


@given(COLUMNS)
def test_reading_gives_back_what_was_written(values: np.ndarray) -> None:
    profile = reference_profile({"mean": values}, {"0": len(values)}, np.abs(values))
    assert ReferenceProfile.parse(profile.to_bytes()) == profile


def test_what_is_not_finite_is_counted_apart() -> None:
    feature = reference_feature(np.array([1.0, np.nan, 3.0, np.inf], dtype=np.float32))
    assert (feature.count, feature.invalid, feature.mean, feature.variance) == (2, 2, 2.0, 1.0)


def test_a_column_without_a_finite_value_is_refused() -> None:
    with pytest.raises(ArtifactError):
        reference_feature(np.array([np.nan], dtype=np.float32))


def test_columns_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        reference_profile({"a": np.zeros(2), "b": np.zeros(3)}, {}, None)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff", b'{"schema_version": "2.0", "rows": 0, "features": {}, "classes": {}}',
     b'{"\xff": 1}', b'{"schema_version": "\xff"}'],
)  # fmt: skip
def test_what_is_no_profile_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        ReferenceProfile.parse(data)
