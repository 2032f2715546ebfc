"""Choosing tokens: greedy, drawn, and what cannot be chosen. One implementation for all language engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.engines.sampling import choose, continuation
from edgeops.errors import BadRequestError, InferenceError

ROWS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@given(logits=ROWS)
def test_greedy_takes_the_first_of_the_best_and_no_chance(logits: np.ndarray) -> None:
    rng = _rng()
    before = rng.bit_generator.state
    token = choose(logits, 0.0, rng)
    assert logits[token] == logits.max()
    assert not (logits[:token] == logits[token]).any()
    assert rng.bit_generator.state == before


@given(logits=ROWS, temperature=st.floats(0.05, 5), seed=st.integers(0, 2**32))
def test_a_draw_depends_on_the_seed_alone_and_takes_one_number(
    logits: np.ndarray, temperature: float, seed: int
) -> None:
    first, second, counted = _rng(seed), _rng(seed), _rng(seed)
    assert choose(logits, temperature, first) == choose(logits.copy(), temperature, second)
    counted.random()
    assert first.bit_generator.state == counted.bit_generator.state


@given(logits=ROWS, temperature=st.floats(0.05, 5), seed=st.integers(0, 1000))
def test_what_can_never_come_never_does(logits: np.ndarray, temperature: float, seed: int) -> None:
    padded = np.concatenate([[-np.inf], logits, [-np.inf, -np.inf]]).astype(np.float32)
    assert 1 <= choose(padded, temperature, _rng(seed)) <= len(logits)


def test_draws_follow_softmax_at_the_temperature() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    rng, draws = _rng(1), 20_000
    for temperature in (1.0, 0.5):
        wanted = shares ** (1 / temperature) / (shares ** (1 / temperature)).sum()
        counts = np.bincount([choose(np.log(shares), temperature, rng) for _ in range(draws)], minlength=3)
        # Five standard deviations of a binomial share.
        assert np.abs(counts / draws - wanted).max() < 5 * np.sqrt(0.25 / draws)


def test_a_tiny_temperature_is_greedy() -> None:
    logits = np.array([1, 3, 3 - 1e-3, -2], np.float32)
    assert {choose(logits, 1e-300, _rng(seed)) for seed in range(50)} == {1}


@pytest.mark.parametrize("bad", [[np.nan, 1], [1, np.inf], [-np.inf, -np.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_allow_no_choice_are_the_engines_failure(bad: list[float], temperature: float) -> None:
    with pytest.raises(InferenceError, match="no token can be chosen"):
        choose(np.array(bad, np.float32), temperature, _rng())


class Counter:
    """A model that says the next number, modulo its vocabulary, and remembers what it was given."""

    vocabulary_size = 10

    def __init__(self) -> None:
        self.given: list[list[int]] = []

    def advance(self, new: Sequence[int]) -> np.ndarray:
        self.given.append(list(new))
        row = np.zeros(self.vocabulary_size, np.float32)
        row[(new[-1] + 1) % self.vocabulary_size] = 9
        return row

    def tokens(self, prompt: Sequence[int], **options: Any) -> list[int]:
        defaults: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0, "seed": 0, "context_tokens": 8}
        ends: frozenset[int] = options.pop("end_tokens", frozenset())
        settings = defaults | options
        return list(
            continuation(
                self.advance, prompt, vocabulary_size=self.vocabulary_size, end_tokens=ends, **settings
            )
        )


def test_it_feeds_the_prompt_once_and_then_each_token() -> None:
    model = Counter()
    assert model.tokens([1, 2, 3]) == [4, 5, 6, 7]
    assert model.given == [[1, 2, 3], [4], [5], [6]]


def test_it_stops_before_an_end_token_and_when_the_context_is_full() -> None:
    assert Counter().tokens([1, 2, 3], end_tokens=frozenset({6})) == [4, 5]
    assert Counter().tokens([1, 2, 3], context_tokens=5) == [4, 5]
    assert Counter().tokens([1, 2, 3], context_tokens=3) == []


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"prompt": []}, "tokens"),
        ({"prompt": [1] * 9}, "tokens"),
        ({"prompt": [10]}, "tokens"),
        ({"prompt": [-1]}, "tokens"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_the_call(change: dict[str, Any], subject: str) -> None:
    model = Counter()
    options: dict[str, Any] = {"prompt": [1], "max_tokens": 1, "temperature": 0.0, "seed": 0} | change
    prompt = options.pop("prompt")
    with pytest.raises(BadRequestError) as caught:
        continuation(
            model.advance,
            prompt,
            end_tokens=frozenset(),
            vocabulary_size=10,
            context_tokens=8,
            **options,
        )
    assert caught.value.subject == subject
    assert model.given == []
