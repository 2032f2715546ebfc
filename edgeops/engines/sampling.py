"""How every language engine picks tokens: one implementation, so that engines differ in their logits only.

Greedy at temperature 0; else a draw from softmax(logits / temperature) by inversion of its distribution
function, with one uniform number a token. Nothing else (no top-k, no penalties): what a bundle was
evaluated with is what a device does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edgeops.errors import BadRequestError, InferenceError
from edgeops.serving.host import Array

_MAX_SEED = 2**64 - 1


def choose(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """A token for one row of logits, of shape (vocabulary,).

    At temperature 0 the most probable one, the smallest id of equals; `rng` is not used then. Else a draw
    in double precision, which takes one number from `rng`. -inf means never. Raises `InferenceError` when
    no token can be chosen: a NaN, +inf, or -inf everywhere.
    """
    best = int(np.argmax(logits))  # a NaN counts as the largest, so it is found here
    peak = float(logits[best])
    if not math.isfinite(peak):
        raise InferenceError(f"The model's best logit is {peak}, so no token can be chosen.")
    if temperature == 0:
        return best
    with np.errstate(over="ignore"):  # a tiny temperature carries all but the best to -inf, which is right
        weights = np.exp((logits.astype(np.float64) - peak) / temperature)
    cumulative = np.cumsum(weights)
    drawn = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    # Rounding can carry the draw to the very end, behind which there is no token.
    return drawn if drawn < len(weights) else int(np.flatnonzero(weights)[-1])


def continuation(
    advance: Callable[[Sequence[int]], Array],
    tokens: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    end_tokens: frozenset[int],
    vocabulary_size: int,
    context_tokens: int,
) -> Iterator[int]:
    """`LanguageEngine.generate` for an engine that keeps a context: `advance(new)` appends tokens to it and
    returns the logits, of shape (vocabulary,), of what follows. It is first called with the whole prompt.

    Arguments are checked at the call (`BadRequestError`), not when the first token is asked for.
    """
    check_tokens(tokens, vocabulary_size=vocabulary_size, context_tokens=context_tokens)
    check_sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    room = min(max_tokens, context_tokens - len(tokens))
    rng = np.random.Generator(np.random.PCG64(seed))
    return _continue(advance, list(tokens), room, temperature, rng, end_tokens)


def check_sampling(*, max_tokens: Any, temperature: Any, seed: Any) -> None:
    """Raises `BadRequestError`, naming the field, unless `max_tokens` is a whole number of at least 1,
    `temperature` a finite one of at least 0, and `seed` a whole one that fits 64 bits."""
    if not _is_whole(max_tokens) or max_tokens < 1:
        raise BadRequestError(f"max_tokens is {max_tokens!r}, not 1 or more.", subject="max_tokens")
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not math.isfinite(temperature) or temperature < 0:
        raise BadRequestError(f"temperature is {temperature!r}, not 0 or more.", subject="temperature")
    if not _is_whole(seed) or not 0 <= seed <= _MAX_SEED:
        raise BadRequestError(f"seed is {seed!r}, not within 0 to 2^64 - 1.", subject="seed")


def check_tokens(tokens: Sequence[int], *, vocabulary_size: int, context_tokens: int) -> None:
    """Raises `BadRequestError` unless there are 1 to `context_tokens` tokens, all of the vocabulary."""
    if not tokens or len(tokens) > context_tokens:
        raise BadRequestError(
            f"There are {len(tokens)} tokens, and the model takes 1 to {context_tokens}.",
            subject="tokens",
        )
    for token in tokens:
        if not _is_whole(token) or not 0 <= token < vocabulary_size:
            raise BadRequestError(
                f"{token!r} is not a token; they go from 0 to {vocabulary_size - 1}.", subject="tokens"
            )


def _continue(
    advance: Callable[[Sequence[int]], Array],
    new: list[int],
    room: int,
    temperature: float,
    rng: np.random.Generator,
    end_tokens: frozenset[int],
) -> Iterator[int]:
    for _ in range(room):
        token = choose(advance(new), temperature, rng)
        if token in end_tokens:
            return
        yield token
        new = [token]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
