"""Slices and groups: parts of the held-out rows, and the gaps between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import ConfigError
from toolchain.evaluation.breakdown import (
    MIN_GROUP_ROWS,
    by_class,
    by_value,
    chosen_attributes,
    group,
    largest_gap,
)
from toolchain.evaluation.classification import Items, items_of

CLASSES = ("cat", "dog", "eel")


def some_items(rows: int = 60, seed: int = 0) -> Items:
    rng = np.random.default_rng(seed)
    raw = rng.random((rows, 3))
    return items_of(raw / raw.sum(axis=1, keepdims=True), rng.integers(0, 2, rows), CLASSES, "it")


@given(seed=st.integers(0, 100))
def test_the_slices_of_an_attribute_add_up_to_the_whole(seed: int) -> None:
    items = some_items(seed=seed)
    sites = np.random.default_rng(seed).choice(np.array(["oslo", "rome"]), 60)
    slices = by_value(items, items, CLASSES, {"site": sites})
    right = sum(told["rows"] * told["accuracy"] for told in slices.values())
    assert right == pytest.approx(items.right.sum(), abs=1e-3)
    assert sum(told["rows"] for told in slices.values()) == 60


def test_a_class_without_items_has_no_accuracy_and_is_not_perfect() -> None:
    slices = by_class(some_items(), some_items(), CLASSES)
    assert slices["class=eel"] == {"rows": 0, "accuracy": None}
    assert slices["class=cat"]["rows"] > 0


def test_the_gap_is_between_the_best_and_the_worst_value() -> None:
    right = np.array([True] * 40 + [True] * 30 + [False] * 10 + [False] * 40)
    values = np.array(["a"] * 40 + ["b"] * 40 + ["c"] * 40)
    told = group(right, np.arange(120), values)
    assert told.gap == 1.0
    assert told.values == {"a": 1.0, "b": 0.75, "c": 0.0}
    assert told.excluded == ()


def test_a_value_with_too_few_rows_is_told_and_left_out_of_the_gap() -> None:
    few = MIN_GROUP_ROWS - 1
    right = np.array([True] * 80 + [False] * few)
    values = np.array(["a"] * 40 + ["b"] * 40 + ["rare"] * few)
    told = group(right, np.arange(len(right)), values)
    assert (told.gap, told.excluded, told.values["rare"]) == (0.0, ("rare",), 0.0)
    alone = group(right[40:], np.arange(40 + few), values[40:])
    assert alone.gap is None


def test_one_gap_that_cannot_be_told_leaves_no_largest() -> None:
    sound = group(np.ones(80, bool), np.arange(80), np.array(["a", "b"] * 40))
    unknown = group(np.ones(80, bool), np.arange(80), np.array(["a"] * 80))
    assert largest_gap({"site": sound}) == 0.0
    assert largest_gap({"site": sound, "age": unknown}) is None


@pytest.mark.parametrize("name", ["site", "class"])
def test_an_attribute_that_the_data_lacks_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        chosen_attributes({"held_out_attribute_age": np.array(["1"])}, ["age", name])
