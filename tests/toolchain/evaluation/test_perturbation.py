"""Noise: the same seed gives the same noise, and labels still fit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeops.serving.text_tensor import text_array
from toolchain.evaluation.perturbation import mistyped, noisy

PLAIN = {"minimum": None, "maximum": None, "columns": []}
TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "Z", "P")), max_size=60)


@given(texts=st.lists(TEXT, min_size=1, max_size=5), rate=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_typos_keep_the_words_in_number_and_order(texts: list[str], rate: float, seed: int) -> None:
    typed = mistyped(text_array(texts), seed=seed, rate=rate)
    assert [len(text.split()) for text in typed] == [len(text.split()) for text in texts]
    assert np.array_equal(typed, mistyped(text_array(texts), seed=seed, rate=rate))


def test_typos_are_swaps_drops_and_doubles_as_often_as_asked() -> None:
    text = "abcdefghij" * 400
    (typed,) = mistyped(text_array([text]), seed=1, rate=0.1)
    assert typed != text
    assert sorted(set(typed)) == sorted(set(text))
    kinds = [mistyped(text_array(["ab"]), seed=seed, rate=0.5)[0] for seed in range(60)]
    assert {"ba", "a", "b", "aab", "abb"} <= set(kinds)


@given(seed=st.integers(0, 20), std=st.floats(0.01, 3))
def test_noise_on_numbers_stays_inside_the_bounds(seed: int, std: float) -> None:
    rows = np.linspace(0, 16, 200, dtype=np.float32).reshape(-1, 4)
    contract = {**PLAIN, "minimum": 0, "maximum": 16}
    made = noisy(rows, contract, seed=seed, std=std)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 16
    assert np.array_equal(made, noisy(rows, contract, seed=seed, std=std))
    assert not np.array_equal(made, noisy(rows, contract, seed=seed + 1, std=std))


def test_noise_has_the_strength_that_is_asked_for_and_leaves_nulls() -> None:
    rows = np.zeros((4000, 2), np.float32)
    rows[0, 0] = np.nan
    made = noisy(rows, PLAIN, seed=3, std=0.5)
    assert np.isnan(made[0, 0])
    assert np.nanstd(made) == np.float32(np.nanstd(made))
    assert abs(float(np.nanstd(made)) - 0.5) < 0.02


def test_each_column_keeps_its_own_bounds() -> None:
    columns = [{"minimum": -1, "maximum": None}, {"minimum": None, "maximum": 0.5}]
    made = noisy(np.zeros((500, 2), np.float32), {**PLAIN, "columns": columns}, seed=0, std=2.0)
    assert made[:, 0].min() == -1
    assert made[:, 1].max() == 0.5
    assert made[:, 0].max() > 1
