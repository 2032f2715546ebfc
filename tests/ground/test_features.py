"""Features: the same numbers in the toolchain and on the device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.errors import BadRequestError
from edgeops.features import feature_columns
from edgeops.manifest import Feature
from edgeops.serving.text_tensor import text_array

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
    columns = feature_columns(ALL, {"x": np.array([[np.inf, 1, 2], [1, -np.inf, np.nan]], dtype=np.float32)})
    assert not np.isfinite(columns["mean"]).any()


NULLABLE = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(3, 5)),
    elements=st.sampled_from([np.nan, 0.0, 1.0, -2.5, 40.0]),
)


@given(NULLABLE)
def test_statistics_are_those_of_what_is_known(rows: np.ndarray) -> None:
    columns = feature_columns(ALL, {"x": rows})
    for number, row in enumerate(rows):
        known = row[~np.isnan(row)]
        for kind, function in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
            got = columns[kind][number]
            if known.size:
                assert got == pytest.approx(function(known), rel=1e-4, abs=1e-4)
            else:
                assert np.isnan(got)
    np.testing.assert_array_equal(columns["third"], rows[:, 2])  # its nulls are counted as such


TEXT = (
    Feature(name="characters", input="t", kind="characters"),
    Feature(name="words", input="t", kind="words"),
    Feature(name="non_ascii", input="t", kind="non_ascii"),
)


def test_features_of_text_by_hand() -> None:
    columns = feature_columns(TEXT, {"t": text_array(["play some jazz", " Zürich\t\N{GRINNING FACE}\n", ""])})
    assert columns["characters"].tolist() == [14, 10, 0]
    assert columns["words"].tolist() == [3, 2, 0]
    assert columns["non_ascii"][:2] == pytest.approx([0, 0.2])
    assert np.isnan(columns["non_ascii"][2])
    assert all(column.dtype == np.float32 for column in columns.values())


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_a_texts_features_do_not_depend_on_its_batch(texts: list[str]) -> None:
    together = feature_columns(TEXT, {"t": text_array(texts)})
    for number, text in enumerate(texts):
        alone = feature_columns(TEXT, {"t": text_array([text])})
        for name, column in together.items():
            np.testing.assert_array_equal(alone[name][0], column[number])
        share = np.mean([ord(character) > 127 for character in text]) if text else np.nan
        np.testing.assert_allclose(together["non_ascii"][number], share, rtol=1e-6)


@pytest.mark.parametrize("feature", [ALL[0], ALL[4], TEXT[0]])
def test_a_feature_of_the_other_kind_is_refused(feature: Feature) -> None:
    other = np.ones((1, 3), np.float32) if feature in TEXT else text_array(["a"])
    with pytest.raises(BadRequestError) as caught:
        feature_columns((feature,), {feature.input: other})
    assert caught.value.subject == feature.name


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
