"""Documents as windows of tokens for a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edgeops.engines.tokenizer import TOKENIZER_FILE, TextTokenizer
from edgeops.errors import ArtifactError
from toolchain.training.vocabulary import end_of_document


def token_stream(documents: Sequence[str], folder: Path) -> list[int]:
    """The tokens of all documents by the tokenizer in `folder`, each document ended by its end token (once,
    if the text ends in it already). Special tokens in a text are those tokens, as in formatted chats."""
    tokenizer = TextTokenizer.load(folder / TOKENIZER_FILE, truncate=False)
    name = end_of_document(folder)
    end = tokenizer.token_id(name)
    if end is None:
        raise ArtifactError(
            f"The tokenizer does not know its own eos_token {name!r}.",
            remedy="Correct tokenizer_config.json.",
            subject="tokenizer_config.json",
        )
    stream: list[int] = []
    for document in documents:
        tokens = tokenizer.encode(document)
        stream += tokens if tokens[-1:] == [end] else [*tokens, end]
    return stream


def windows_of(stream: Sequence[int], context_tokens: int, *, what: str) -> torch.Tensor:
    """The stream cut into windows, int64 of shape (windows, context_tokens + 1). The last token of each is
    the first of the next, so every token but the stream's first is predicted once. What does not fill a
    window at the end is left out.

    Raises `ArtifactError` naming `what` if there is not one window.
    """
    count = (len(stream) - 1) // context_tokens
    if count < 1:
        raise ArtifactError(
            f"The {what} text has {len(stream)} tokens, and a window takes {context_tokens + 1}.",
            remedy="Bring more text, or lower context_tokens.",
            subject=what,
        )
    tokens = torch.tensor(stream[: count * context_tokens + 1], dtype=torch.int64)
    return tokens.unfold(0, context_tokens + 1, context_tokens).contiguous()
