"""Quality of a causal language model: how its scores differ from the source model's on the held-out windows,
and whether it reads text as the source model's tokenizer does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeops.engines.base import LanguageEngine
from edgeops.errors import ArtifactError
from toolchain.evaluation.report import Figures, rounded, two_digits
from toolchain.handover.arrays import Array

# How many special tokens a tokenizer may put between two documents.
_MOST_SPECIAL = 6


@dataclass
class _Sums:
    """What is added up over windows: in double precision, and in one order."""

    positions: int = 0
    divergence: float = 0.0
    agreed: int = 0
    largest: float = 0.0
    followed: int = 0
    surprise: float = 0.0
    source_surprise: float = 0.0


def compare(tokens: Array, source: Array, score: Callable[[Sequence[int]], Array]) -> tuple[Figures, Figures]:
    """The figures of a variant that gives `score(window)`, and those of the source itself.

    `tokens` is int64 of shape (windows, length); `source` of shape (windows, length, vocabulary) holds
    logits, or log-probabilities, of what follows each token. `kl_mean` is the Kullback–Leibler divergence of
    the variant from the source in nats, the mean over all tokens; `top1_agreement` the share of tokens after
    which both hold the same one most probable; `parity_max_abs` the largest difference of two
    probabilities; `perplexity` exp of the mean negative log-likelihood of each window's tokens but its first.

    Raises `ArtifactError` if the variant has another vocabulary, or gives scores that are not finite.
    """
    sums = _Sums()
    for window, wanted in zip(tokens, source, strict=True):
        _add(sums, window, log_probabilities(wanted), _scored(window, wanted, score))
    return (
        {
            "kl_mean": rounded(sums.divergence / sums.positions),
            "top1_agreement": rounded(sums.agreed / sums.positions),
            "parity_max_abs": two_digits(sums.largest),
            "perplexity": _perplexity(sums.surprise, sums.followed),
        },
        {"perplexity": _perplexity(sums.source_surprise, sums.followed)},
    )


def mean_kl(want: Sequence[Array], got: Sequence[Array]) -> float:
    """The mean divergence over all positions, as `compare` has it, to six significant digits. Each item holds
    the logits of one window, of shape (length, vocabulary)."""
    divergences = [
        _divergences(log_probabilities(wanted), log_probabilities(given))
        for wanted, given in zip(want, got, strict=True)
    ]
    return float(f"{np.concatenate(divergences).mean():.6g}")


def log_probabilities(logits: Array) -> Array:
    """log softmax along the last axis, in double precision."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def tokenizer_agreement(engine: LanguageEngine, documents: Sequence[str], tokens: Array) -> float | None:
    """The share of tokens that lie in documents which the engine's tokenizer cuts as the source's did.
    `tokens` are these documents end to end in windows, with the special tokens that the source's tokenizer
    adds.

    What is compared, the scores of given tokens, would not show a tokenizer that reads text differently.
    """
    stream = tokens.ravel().tolist()
    at = same = seen = 0
    reach = _MOST_SPECIAL
    for document in documents:
        if at >= len(stream):
            break
        mine = engine.tokenize(document)
        offset = _found(stream, mine, at, reach)
        if offset is None:
            # Where the next document begins is not known then: it is looked for in all that is left.
            seen, reach = seen + min(len(mine), len(stream) - at), len(stream)
            continue
        length = min(len(mine), len(stream) - offset)
        seen, same, at, reach = seen + length, same + length, offset + length, _MOST_SPECIAL
    return rounded(same / seen) if seen else None


def _scored(window: Array, wanted: Array, score: Callable[[Sequence[int]], Array]) -> Array:
    logits = score([int(token) for token in window])
    if logits.shape != wanted.shape:
        raise ArtifactError(
            f"The variant scores {logits.shape[-1]} tokens, and the model itself {wanted.shape[-1]}.",
            remedy="Look at its conversion; a baseline must have the same vocabulary.",
            subject="vocabulary",
        )
    if not np.all(np.isfinite(logits)):
        raise ArtifactError(
            "The variant gives scores that are not finite.",
            remedy="Look at the model and its conversion.",
            subject="logits",
        )
    return log_probabilities(logits)


def _add(sums: _Sums, window: Array, want: Array, got: Array) -> None:
    chances = np.exp(want)
    sums.positions += len(window)
    sums.divergence += float(_divergences(want, got).sum())
    sums.agreed += int((want.argmax(axis=1) == got.argmax(axis=1)).sum())
    sums.largest = max(sums.largest, float(np.abs(np.exp(got) - chances).max()))
    rows, following = np.arange(len(window) - 1), window[1:]
    sums.followed += len(rows)
    sums.surprise -= float(got[rows, following].sum())
    sums.source_surprise -= float(want[rows, following].sum())


def _divergences(want: Array, got: Array) -> Array:
    """The divergence at each position, from log-probabilities."""
    # Rounding can carry the sum of one position below 0, where no divergence lies.
    found: Array = np.maximum((np.exp(want) * (want - got)).sum(axis=1), 0.0)
    return found


def _perplexity(surprise: float, count: int) -> float | None:
    try:
        return rounded(math.exp(surprise / count)) if count else None
    except OverflowError:
        return None


def _found(stream: list[int], mine: list[int], at: int, reach: int) -> int | None:
    """Where the document's tokens are in the stream: at `at`, or up to `reach` tokens behind."""
    for offset in range(at, min(at + reach, len(stream)) + 1):
        rest = stream[offset : offset + len(mine)]
        if rest and rest == mine[: len(rest)]:
            return offset
    return None
