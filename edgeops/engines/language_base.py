"""What the engines of language models have in common: see `edgeops.engines.base.LanguageEngine`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from edgeops.engines.language_files import LanguageConfig
from edgeops.engines.sampling import check_tokens, continuation
from edgeops.engines.tokenizer import TextTokenizer
from edgeops.serving.host import Array


class ContextEngine(ABC):
    """Scores and generates by what an engine of this kind brings: the scores of all tokens at once, and a
    context that grows."""

    def __init__(self, *, vocabulary_size: int, context_tokens: int, end_tokens: frozenset[int]) -> None:
        self._vocabulary_size = vocabulary_size
        self._context_tokens = context_tokens
        self._end_tokens = end_tokens

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are; ids go from 0 to one less."""
        return self._vocabulary_size

    @property
    def context_tokens(self) -> int:
        """The most tokens, prompt and answer together, that one call can hold."""
        return self._context_tokens

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return self._end_tokens

    def logits(self, tokens: Sequence[int]) -> Array:
        """float32 of shape (len(tokens), vocabulary_size): row i scores what follows token i.
        More tokens than the context holds, or none, is a `BadRequestError`."""
        check_tokens(tokens, vocabulary_size=self._vocabulary_size, context_tokens=self._context_tokens)
        return self._scores(tokens)

    def generate(
        self, tokens: Sequence[int], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """Tokens that follow, until an end token (not given) or `max_tokens`, or until the context is full.
        At temperature 0 always the most probable one (the smallest id of equals); else drawn, by `seed`."""
        return continuation(
            self._empty_context(),
            tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            end_tokens=self._end_tokens,
            vocabulary_size=self._vocabulary_size,
            context_tokens=self._context_tokens,
        )

    @abstractmethod
    def _scores(self, tokens: Sequence[int]) -> Array:
        """`logits` of tokens that were checked."""

    @abstractmethod
    def _empty_context(self) -> Callable[[Sequence[int]], Array]:
        """`advance` of an empty context, as `continuation` wants it."""


class TokenizerEngine(ContextEngine):
    """Reads and writes text by the model's own `tokenizer.json`; the rest of what it is told stands in its
    `config.json`."""

    def __init__(self, tokenizer: TextTokenizer, config: LanguageConfig, context_tokens: int | None) -> None:
        """`context_tokens` is what the caller allows; the context is never longer than what the model was
        trained with."""
        trained = config.context_tokens
        super().__init__(
            vocabulary_size=config.vocabulary_size,
            context_tokens=trained if context_tokens is None else min(context_tokens, trained),
            end_tokens=config.end_tokens,
        )
        self._tokenizer = tokenizer

    def tokenize(self, text: str) -> list[int]:
        """The text's tokens. The names of special tokens in it become those tokens; none is added."""
        return self._tokenizer.encode(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(tokens)
