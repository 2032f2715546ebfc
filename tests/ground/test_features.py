"""Features: the same numbers in the toolchain and on the device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.errors import BadRequestError
from edgeops.features import feature_columns
from edgeops.manifest import Feature

ALL = (
    Feature(name="mean", input="x", kind="mean"),
    Feature(name="std", input="x", kind="std"),
    Feature(name="min", input="x", kind="min"),
    Feature(name="max", input="x", kind="max"),
    Feature(name="third", input="x", kind="element", index=2),
)
ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(3, 4)),
    elements=st.floats(-100, 100, width=32),
)


@given(ROWS)
def test_a_row_s_features_do_not_depend_on_its_batch(rows: np.ndarray) -> None:
    together = feature_columns(ALL, {"x": rows})
    for index in range(len(rows)):
        alone = feature_columns(ALL, {"x": rows[index : index + 1]})
        for name, column in together.items():
            np.testing.assert_allclose(alone[name][0], column[index], rtol=1e-5, atol=1e-5)


@given(ROWS)
def test_the_statistics_are_in_order(rows: np.ndarray) -> None:
    columns = feature_columns(ALL, {"x": rows})
    assert all(column.shape == (len(rows),) and column.dtype == np.float32 for column in columns.values())
    slack = 1e-3
    assert np.all(columns["min"] <= columns["mean"] + slack)
    assert np.all(columns["mean"] <= columns["max"] + slack)
    assert np.all(columns["std"] <= (columns["max"] - columns["min"]) / 2 + slack)
    np.testing.assert_array_equal(columns["third"], rows.reshape(len(rows), -1)[:, 2])


def test_the_statistics_by_hand() -> None:
    columns = feature_columns(ALL, {"x": np.array([[1.0, 2.0, 3.0, 6.0]], dtype=np.float32)})
    assert {name: float(column[0]) for name, column in columns.items()} == pytest.approx(
        {"mean": 3.0, "std": np.sqrt(3.5), "min": 1.0, "max": 6.0, "third": 3.0}
    )


def test_what_is_not_finite_stays_so() -> None:
    columns = feature_columns(ALL, {"x": np.array([[np.nan, 1, 2], [np.inf, 1, 2]], dtype=np.float32)})
    assert not np.isfinite(columns["mean"]).any()


def test_integers_become_floats() -> None:
    columns = feature_columns(ALL, {"x": np.array([[250, 255, 245]], dtype=np.uint8)})
    assert columns["mean"][0] == 250.0


def test_a_missing_input_is_named() -> None:
    with pytest.raises(BadRequestError) as caught:
        feature_columns(ALL, {"y": np.zeros((1, 3), np.float32)})
    assert caught.value.subject == "x"


def test_an_index_outside_the_row_is_named() -> None:
    with pytest.raises(BadRequestError) as caught:
        feature_columns(ALL, {"x": np.zeros((1, 2), np.float32)})
    assert caught.value.subject == "third"
