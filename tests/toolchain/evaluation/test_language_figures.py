"""A language model's figures: by hand, and laws of the divergence."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from edgeops.errors import ArtifactError
from toolchain.evaluation.language import compare, log_probabilities, mean_kl, tokenizer_agreement

TOKENS = np.arange(24).reshape(2, 12) % 7


def scores(seed: int, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (2, 12, 7)).astype(np.float32)


def scorer(answers: np.ndarray) -> Callable[[Sequence[int]], np.ndarray]:
    """Gives the answers to the windows in their order."""
    windows = iter(answers)
    return lambda window: next(windows)


def test_a_model_agrees_with_itself() -> None:
    figures, source = compare(TOKENS, scores(1), scorer(scores(1)))
    assert figures["kl_mean"] == 0.0
    assert figures["top1_agreement"] == 1.0
    assert figures["parity_max_abs"] == 0.0
    assert figures["perplexity"] == source["perplexity"]


@given(seed=st.integers(0, 50))
def test_the_figures_are_those_of_a_direct_computation(seed: int) -> None:
    want, got = scores(seed), scores(seed + 1)
    figures, source = compare(TOKENS, want, scorer(got))
    p, q = softmax(want.astype(np.float64), axis=-1), softmax(got.astype(np.float64), axis=-1)
    assert figures["kl_mean"] == pytest.approx(rel_entr(p, q).sum(axis=-1).mean(), abs=1e-6)
    assert figures["top1_agreement"] == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean(), abs=1e-6)
    assert figures["parity_max_abs"] == pytest.approx(np.abs(p - q).max(), rel=0.06)
    for told, chances in ((figures, q), (source, p)):
        following = np.take_along_axis(chances[:, :-1], TOKENS[:, 1:, None], axis=-1)
        assert told["perplexity"] == pytest.approx(np.exp(-np.log(following).mean()), abs=1e-5)


@given(seed=st.integers(0, 20))
def test_the_mean_divergence_is_the_same_figure(seed: int) -> None:
    want, got = scores(seed), scores(seed + 1)
    figures, _ = compare(TOKENS, want, scorer(got))
    assert mean_kl(list(want), list(got)) == pytest.approx(figures["kl_mean"], abs=1e-5)
    assert mean_kl(list(want), list(want)) == 0.0


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    figures, _ = compare(TOKENS, scores(1), scorer(scores(1) + 40))
    assert figures["kl_mean"] == pytest.approx(0.0, abs=1e-6)


def test_log_probabilities_in_half_precision_are_as_good_as_logits() -> None:
    want = log_softmax(scores(3, 3.0).astype(np.float64), axis=-1).astype(np.float16)
    figures, _ = compare(TOKENS, want, scorer(scores(3, 3.0)))
    assert figures["kl_mean"] < 1e-4
    assert figures["top1_agreement"] == 1.0


def test_scores_of_another_vocabulary_or_no_numbers_are_refused() -> None:
    with pytest.raises(ArtifactError, match="scores 5 tokens"):
        compare(TOKENS, scores(1), scorer(scores(1)[:, :, :5]))
    broken = scores(1)
    broken[0, 3, 2] = np.nan
    with pytest.raises(ArtifactError, match="not finite"):
        compare(TOKENS, scores(1), scorer(broken))


def test_probabilities_sum_to_one() -> None:
    assert np.exp(log_probabilities(scores(1) * 100)).sum(axis=-1) == pytest.approx(1.0)


class Letters:
    """A tokenizer alone: one token a letter, with an odd reading of `odd`."""

    def __init__(self, odd: str = "") -> None:
        self._odd = odd

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) + (letter == self._odd) for letter in text]


BEGIN, END = 1, 2
DOCUMENTS = ["the first", "another one", "and the third"]


def stream(documents: Sequence[str]) -> np.ndarray:
    tokens = [t for text in documents for t in (BEGIN, *map(ord, text), END)]
    return np.array(tokens[: len(tokens) // 4 * 4]).reshape(-1, 4)


def test_a_tokenizer_that_reads_as_the_source_does_agrees_whatever_special_tokens_are_added() -> None:
    assert tokenizer_agreement(Letters(), DOCUMENTS, stream(DOCUMENTS)) == 1.0


def test_a_document_that_is_read_differently_counts_by_its_tokens() -> None:
    told = tokenizer_agreement(Letters(odd="o"), DOCUMENTS, stream(DOCUMENTS))
    assert told is not None
    assert 0.5 < told < 0.75  # "another one" is 11 of 33 letters


def test_documents_beyond_the_windows_do_not_count() -> None:
    assert tokenizer_agreement(Letters(), [*DOCUMENTS, "never scored"], stream(DOCUMENTS)) == 1.0
    assert tokenizer_agreement(Letters(), [], stream(DOCUMENTS)) is None
