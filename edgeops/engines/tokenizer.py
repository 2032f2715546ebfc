"""Text to tokens by the model's own `tokenizer.json`, which travels with the weights.

The file is the whole of a text model's preprocessing (normalizing, splitting, special tokens, truncation):
https://huggingface.co/docs/tokenizers/pipeline. What made the training data makes a request's tokens too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeops.engines.refusals import one_line, refused
from edgeops.errors import BadRequestError, ConfigError

TOKENIZER_FILE = "tokenizer.json"
# The largest in use (a vocabulary of 262,000 tokens) has 34 MB.
MAX_TOKENIZER_BYTES = 64 << 20
# What fills a batch's shorter rows, by the names in use; the attention mask hides it.
_PADDING_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenBatch:
    """Tokens of several texts: three int64 arrays of shape (texts, tokens of the longest). `attention_mask`
    is 1 where `input_ids` holds a token and 0 where it is filled up."""

    input_ids: Int64Array
    attention_mask: Int64Array
    token_type_ids: Int64Array


class TextTokenizer:
    """A loaded `tokenizer.json`. Thread-safe: nothing in it changes after loading."""

    def __init__(self, tokenizer: Any, subject: str) -> None:
        self._tokenizer = tokenizer
        self._subject = subject
        self._padding_id = _padding_id(tokenizer)
        tokenizer.no_padding()
        truncation = tokenizer.truncation
        self._max_tokens: int | None = None if truncation is None else truncation["max_length"]

    @classmethod
    def load(cls, path: Path, *, truncate: bool = True) -> TextTokenizer:
        """Loads the tokenizer at `path`. Padding that the file asks for is left to `encode_batch`; truncation
        that it asks for holds unless `truncate` is false (a language model must never lose the end of a
        prompt in silence).

        Raises `ArtifactError` (subject: the file's name) when it is missing, larger than
        `MAX_TOKENIZER_BYTES` or no tokenizer; `ConfigError` when the library is missing.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ConfigError(
                f"The tokenizers library cannot be imported ({error}).",
                remedy="Install it: pip install 'edgeops[text]'.",
                subject="tokenizers",
            ) from error
        data = _read(path)
        try:
            tokenizer = Tokenizer.from_buffer(data)
        except BaseException as error:
            if not _is_library_error(error):
                raise
            raise refused(path.name, f"is not a tokenizer ({one_line(error)})") from error
        if not truncate:
            tokenizer.no_truncation()
        return cls(tokenizer, path.name)

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the file knows, added ones included. A model's table of logits may be larger."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def max_tokens(self) -> int | None:
        """Where texts are cut, special tokens included; None when they are not."""
        return self._max_tokens

    def encode_batch(self, texts: Sequence[str]) -> TokenBatch:
        """The tokens of each text, with the special tokens that the model was trained with around them, cut
        at `max_tokens`, and filled up to the longest row.

        Raises `BadRequestError` on no texts, and on text that is no Unicode (half a surrogate pair).
        """
        return self._filled_up(self._encodings(self._tokenizer.encode_batch_fast, texts))

    def encode_words(self, texts: Sequence[str]) -> tuple[TokenBatch, list[list[int]]]:
        """As `encode_batch`, and for each text the position in its row of the first token of each word (what
        white space separates), -1 of a word that has none: it was cut off, or normalized away."""
        encodings = self._encodings(self._tokenizer.encode_batch, texts)
        starts = [_word_starts(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        return self._filled_up(encodings), starts

    def _encodings(self, encode: Any, texts: Sequence[str]) -> list[Any]:
        if not texts:
            raise BadRequestError("There is no text to encode.", subject=self._subject)
        encodings: list[Any] = self._call(encode, list(texts), add_special_tokens=True)
        return encodings

    def _filled_up(self, encodings: Sequence[Any]) -> TokenBatch:
        longest = max(len(encoding) for encoding in encodings)
        shape = (len(encodings), longest)
        ids = np.full(shape, self._padding_id, np.int64)
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, encoding in enumerate(encodings):
            length = len(encoding)
            ids[row, :length] = encoding.ids
            mask[row, :length] = encoding.attention_mask
            types[row, :length] = encoding.type_ids
        return TokenBatch(ids, mask, types)

    def encode(self, text: str) -> list[int]:
        """The text's tokens. The names of special tokens in it become those tokens; none is added.

        Raises `BadRequestError` on text that is no Unicode.
        """
        ids: list[int] = self._call(self._tokenizer.encode, text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens. Special tokens, and ids that the file does not know (models pad their tables),
        give no text; bytes that are no UTF-8 become U+FFFD.

        Raises `BadRequestError` on a negative id or one beyond 32 bits.
        """
        text: str = self._call(self._tokenizer.decode, list(tokens), skip_special_tokens=True)
        return text

    def token_id(self, name: str) -> int | None:
        """The id of the token of that name, or None."""
        token: int | None = self._tokenizer.token_to_id(name)
        return token

    def _call(self, function: Any, argument: object, **options: bool) -> Any:
        try:
            return function(argument, **options)
        except BaseException as error:
            if not _is_library_error(error):
                raise
            raise BadRequestError(
                f"The tokenizer cannot take this input ({one_line(error)}).", subject=self._subject
            ) from error


def _word_starts(text: str, encoding: Any) -> list[int]:
    """See `encode_words`. A token belongs to the word that its first character other than white space is in:
    byte-level tokens begin with the space before their word."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    starts, word = [-1] * len(spans), 0
    for position, ((start, end), inside) in enumerate(zip(encoding.offsets, encoding.word_ids, strict=True)):
        if inside is None:  # a special token, which no character stands for
            continue
        while word < len(spans) and spans[word][1] <= start:
            word += 1
        if word < len(spans) and end > spans[word][0] and starts[word] < 0:
            starts[word] = position
    return starts


def _padding_id(tokenizer: Any) -> int:
    if tokenizer.padding is not None:
        token: int = tokenizer.padding["pad_id"]
        return token
    ids = (tokenizer.token_to_id(name) for name in _PADDING_TOKENS)
    return next((token for token in ids if token is not None), 0)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise refused(path.name, "is missing")
        size = path.stat().st_size
        if size > MAX_TOKENIZER_BYTES:
            raise refused(path.name, f"has {size} bytes, and {MAX_TOKENIZER_BYTES} is the most")
        return path.read_bytes()
    except OSError as error:
        raise refused(path.name, f"cannot be read ({error.strerror})") from error


def _is_library_error(error: BaseException) -> bool:
    """Whether the library failed. A panic of its Rust code is no `Exception` and has no importable class."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
