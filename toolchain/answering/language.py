"""What a causal language model itself scores on the held-out documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from edgeops.engines.base import LanguageEngine
from edgeops.errors import ArtifactError, ConfigError
from toolchain.handover.arrays import Array

WINDOW_TOKENS = 256
# Up to here scores are kept as they are; beyond, as float16 log-probabilities; and never more than the last.
MAX_EXACT_BYTES = 512 << 20
MAX_BYTES = 8 << 30


def windows(documents: Iterable[Sequence[int]], *, length: int, most_tokens: int) -> Array:
    """int64 of shape (windows, length): the documents' tokens end to end, cut into windows, at most
    `most_tokens` of them; what is left at the end is dropped.

    Raises `ArtifactError` when there are too few for one window.
    """
    wanted = max(most_tokens // length, 1) * length
    tokens: list[int] = []
    for document in documents:
        tokens += document
        if len(tokens) >= wanted:
            break
    count = min(len(tokens), wanted) // length
    if count == 0:
        raise ArtifactError(
            f"The held-out documents have {len(tokens)} tokens, and one window takes {length}.",
            remedy="Hold out more documents, or set evaluation.held_out_tokens lower.",
            subject="held_out",
        )
    return np.array(tokens[: count * length], np.int64).reshape(count, length)


def answer_windows(tokens: Array, vocabulary: int, score: Callable[[Array], Array]) -> Array:
    """The scores of what follows each token, shape (windows, length, vocabulary), by `score` of one window.

    float32 logits. Where these would take more than 512 MiB: float16 log-probabilities, whose rounding
    (2^-11 of a value, so below .0005 for every token above 1/e) moves a mean KL divergence by less than
    1e-4. `log_softmax` in float32 of either is the same thing. Raises `ConfigError` beyond 8 GiB.
    """
    size_bytes = 4 * tokens.size * vocabulary
    exact = size_bytes <= MAX_EXACT_BYTES
    if not exact and size_bytes // 2 > MAX_BYTES:
        raise ConfigError(
            f"The scores of {tokens.size} tokens of a vocabulary of {vocabulary} take {size_bytes // 2} "
            f"bytes, and {MAX_BYTES} is the most.",
            remedy=f"Set evaluation.held_out_tokens to at most {MAX_BYTES // 2 // vocabulary}.",
            subject="evaluation.held_out_tokens",
        )
    answers = np.empty((*tokens.shape, vocabulary), np.float32 if exact else np.float16)
    for number, window in enumerate(tokens):
        logits = score(window)
        if logits.shape != answers.shape[1:] or not np.all(np.isfinite(logits)):
            raise ArtifactError(
                f"The model gives scores of shape {logits.shape}, not {answers.shape[1:]} finite numbers.",
                remedy="Look at the model: its vocabulary or its weights are likely wrong.",
                subject="model",
            )
        answers[number] = logits if exact else log_softmax(logits)
    return answers


def log_softmax(logits: Array) -> Array:
    """The logarithms of probabilities along the last axis, float32."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def answer_transformer(folder: Path, documents: Sequence[str], most_tokens: int) -> tuple[Array, Array]:
    """The windows and a Hugging Face model's scores, in torch, one thread. Documents get the special tokens
    that the model's tokenizer gives a text, and its end token."""
    import torch

    from toolchain.importing.transformer import load_model, load_tokenizer
    from toolchain.training.modules import make_deterministic

    make_deterministic()
    model, tokenizer = load_model(folder, "text-generation"), load_tokenizer(folder)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    length = min(WINDOW_TOKENS, model.config.max_position_embeddings, most_tokens)

    def score(window: Array) -> Array:
        with torch.no_grad():
            logits: Array = model(input_ids=torch.from_numpy(window)[None], use_cache=False).logits[0].numpy()
        return logits

    encoded = (_ended(tokenizer(document, verbose=False).input_ids, end) for document in documents)
    tokens = windows(encoded, length=length, most_tokens=most_tokens)
    return tokens, answer_windows(tokens, model.config.vocab_size, score)


def answer_engine(engine: LanguageEngine, documents: Sequence[str], most_tokens: int) -> tuple[Array, Array]:
    """The windows and an engine's scores, for a source that only an engine can run."""
    end = sorted(engine.end_tokens)[:1]
    length = min(WINDOW_TOKENS, engine.context_tokens, most_tokens)
    encoded = (_ended(engine.tokenize(document), end) for document in documents)
    tokens = windows(encoded, length=length, most_tokens=most_tokens)
    return tokens, answer_windows(
        tokens, engine.vocabulary_size, lambda window: engine.logits([int(token) for token in window])
    )


def _ended(tokens: list[int], end: list[int]) -> list[int]:
    return tokens if tokens[-1:] == end else tokens + end
