"""llama.cpp behind the language interface, through llama-cpp-python's low level functions."""

from __future__ import annotations

import ctypes
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeops.engines.gguf_file import GgufFile
from edgeops.engines.gguf_model import check_gguf
from edgeops.engines.language_base import ContextEngine
from edgeops.engines.llama_library import end_tokens, forget_words, last_words, llama_library, text_tokens
from edgeops.engines.refusals import refused
from edgeops.engines.variant_files import bundle_file, require_version
from edgeops.errors import ArtifactError, BadRequestError, InferenceError
from edgeops.manifest import Variant
from edgeops.serving.host import Array

# Keys of our own, which llama.cpp passes over. The form that text must have before it is tokenized (one of
# unicodedata.normalize), which llama.cpp leaves to its caller.
NORMALIZATION_KEY = "edgeops.text_normalization"
# The tokens that end an answer, as the model's makers have them. Without it llama.cpp is asked, which goes
# by the looks of a token's name.
END_TOKENS_KEY = "edgeops.end_token_ids"
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_HIDDEN_TYPES = (2, 3)  # tokenizer.ggml.token_type: unknown and control
# Tokens that one step computes at most, and the most memory that their logits take.
_MAX_BATCH_TOKENS = 512
_MAX_LOGITS_BYTES = 64 << 20
_FLASH_ATTENTION_OFF = 0  # enum llama_flash_attn_type


class LlamaEngine(ContextEngine):
    """A loaded GGUF model. Not thread-safe. The answer depends on the file, the tokens, the version of
    llama.cpp, the CPU's instruction set and the number of threads alone; nothing is kept between calls.

    There is one context: once another call has begun, the next token of an earlier `generate` is an
    `InferenceError`.
    """

    def __init__(self, llama: Any, model: Any, context: Any, file: GgufFile, context_tokens: int) -> None:
        vocab = llama.llama_model_get_vocab(model)
        size: int = llama.llama_vocab_n_tokens(vocab)
        ends = file.metadata.get(END_TOKENS_KEY)
        if not isinstance(ends, array):
            ends = array("i", end_tokens(llama, vocab))
        super().__init__(vocabulary_size=size, context_tokens=context_tokens, end_tokens=frozenset(ends))
        self._llama = llama
        self._model = model
        self._context = context
        self._vocab = vocab
        types = file.metadata.get("tokenizer.ggml.token_type")
        self._types = types if isinstance(types, array) else None
        self._batch_tokens = _batch_tokens(size, context_tokens)
        self._form = file.metadata.get(NORMALIZATION_KEY)
        sentencepiece = file.metadata.get("tokenizer.ggml.model") == "llama"
        self._spaced = sentencepiece and file.metadata.get("tokenizer.ggml.add_space_prefix", True) is True
        self._call = 0

    @classmethod
    def load(
        cls, variant: Variant, bundle_dir: Path, *, threads: int = 1, context_tokens: int | None = None
    ) -> LlamaEngine:
        """Loads `variant.files[0]`, whose bytes the caller has verified. The file is read into memory, so
        what happens to it later does not reach the model. `context_tokens` may shorten the context that
        the file names, not lengthen it.

        Raises `ArtifactError` (subject: the file) when it is missing, leads outside `bundle_dir`, is no
        sound GGUF file (see `check_gguf`), or is refused by llama.cpp; `ConfigError` when llama.cpp is
        missing or older than `variant.runtime.min_version`.
        """
        if variant.runtime.engine != "llama.cpp":
            raise ArtifactError(
                f"Variant {variant.id!r} asks for the engine {variant.runtime.engine!r}.", subject=variant.id
            )
        llama = llama_library()
        require_version(variant, llama.__version__, "llama-cpp-python", "llama-cpp-python")
        path = bundle_file(bundle_dir, variant.files[0].path)
        return cls.open(path, threads=threads, context_tokens=context_tokens)

    @classmethod
    def open(cls, path: Path, *, threads: int = 1, context_tokens: int | None = None) -> LlamaEngine:
        """Loads the file at `path`, which need not be in a bundle yet. Raises as `load` does."""
        file = check_gguf(path)
        _check_own_keys(file)
        llama = llama_library()
        trained = file.metadata[f"{file.metadata['general.architecture']}.context_length"]
        assert isinstance(trained, int)  # check_gguf has seen to that
        length = trained if context_tokens is None else min(context_tokens, trained)
        forget_words()
        params = llama.llama_model_default_params()
        params.load_mode = llama.LLAMA_LOAD_MODE_NONE
        params.n_gpu_layers = 0
        model = llama.llama_model_load_from_file(str(path).encode(), params)
        if model is None:
            raise _refused(path.name)
        context = llama.llama_init_from_model(model, _context_params(llama, threads, length, file))
        if context is None:
            llama.llama_model_free(model)
            raise _refused(path.name)
        return cls(llama, model, context, file, length)

    def tokenize(self, text: str) -> list[int]:
        """The text's tokens. The names of special tokens in it become those tokens; none is added.

        Raises `BadRequestError` on text that is no Unicode (half a surrogate pair).
        """
        self._open()
        if isinstance(self._form, str):
            text = unicodedata.normalize(self._form, text)  # type: ignore[arg-type]
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise BadRequestError("The text is not Unicode.", subject="text") from error
        tokens = text_tokens(self._llama, self._vocab, data)
        if tokens is None:
            raise InferenceError("llama.cpp cannot tokenize this text.")
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; bytes that are no UTF-8 become U+FFFD. Where the
        tokenizer puts a space in front of a text, the one in front of this is left out."""
        self._open()
        for token in tokens:
            if not 0 <= token < self._vocabulary_size:
                raise BadRequestError(f"{token!r} is not a token of this model.", subject="tokens")
        text = b"".join(map(self._piece, tokens)).decode(errors="replace")
        return text.removeprefix(" ") if self._spaced else text

    def _scores(self, tokens: Sequence[int]) -> Array:
        self._start()
        rows = np.empty((len(tokens), self._vocabulary_size), np.float32)
        for start in range(0, len(tokens), self._batch_tokens):
            part = tokens[start : start + self._batch_tokens]
            self._decode(part, start, all_rows=True)
            found = self._llama.llama_get_logits(self._context)
            shape = (len(part), self._vocabulary_size)
            rows[start : start + len(part)] = np.ctypeslib.as_array(found, shape=shape)
        return rows

    def _empty_context(self) -> Callable[[Sequence[int]], Array]:
        self._open()
        call, position = 0, 0

        def advance(new: Sequence[int]) -> Array:
            nonlocal call, position
            self._open()
            if position == 0:
                call = self._start()
            elif call != self._call:
                raise InferenceError("Another call has begun, so this answer cannot go on.")
            for start in range(0, len(new), self._batch_tokens):
                part = new[start : start + self._batch_tokens]
                self._decode(part, position, all_rows=False)
                position += len(part)
            found = self._llama.llama_get_logits_ith(self._context, -1)
            return np.ctypeslib.as_array(found, shape=(self._vocabulary_size,))

        return advance

    def close(self) -> None:
        """Frees the model. Safe to call twice; later calls raise `InferenceError`."""
        if self._model is not None:
            self._llama.llama_free(self._context)
            self._llama.llama_model_free(self._model)
        self._model = self._context = self._vocab = None

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            self.close()

    def _open(self) -> None:
        if self._model is None:
            raise InferenceError("The engine is closed.")

    def _start(self) -> int:
        """Empties the context for a new call, and returns the call's number."""
        self._open()
        self._call += 1
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        return self._call

    def _decode(self, tokens: Sequence[int], position: int, *, all_rows: bool) -> None:
        """Appends tokens to the context; logits are computed for all of them, or for the last."""
        count = len(tokens)
        batch = self._llama.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for index, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = position + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = all_rows or index == count - 1
            forget_words()
            code = self._llama.llama_decode(self._context, batch)
        finally:
            self._llama.llama_batch_free(batch)
        if code != 0:
            raise InferenceError(f"llama.cpp failed on this request ({last_words() or f'status {code}'}).")

    def _piece(self, token: int) -> bytes:
        # Which tokens are hidden is the file's to say; llama.cpp hides those whose names look like it, too.
        if self._types is not None and self._types[token] in _HIDDEN_TYPES:
            return b""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            shown = self._types is not None
            found = self._llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, shown)
            if found >= 0:
                return buffer.raw[:found]
            size = -found


def _batch_tokens(vocabulary: int, context_tokens: int) -> int:
    """How many tokens one step computes: fewer for a large vocabulary, since each may ask for its logits."""
    return min(_MAX_BATCH_TOKENS, max(32, _MAX_LOGITS_BYTES // (4 * vocabulary)), context_tokens)


def _context_params(llama: Any, threads: int, context_tokens: int, file: GgufFile) -> Any:
    batch = _batch_tokens(file.counts["tokenizer.ggml.tokens"], context_tokens)
    params = llama.llama_context_default_params()
    params.n_ctx = context_tokens
    params.n_batch = params.n_ubatch = batch
    params.n_seq_max = 1
    params.n_threads = params.n_threads_batch = threads
    # On a CPU it saves little, and sums in half precision.
    params.flash_attn_type = _FLASH_ATTENTION_OFF
    params.no_perf = True
    return params


def _check_own_keys(file: GgufFile) -> None:
    form = file.metadata.get(NORMALIZATION_KEY, "NFC")
    if form not in _FORMS:
        file.refuse(f"has {NORMALIZATION_KEY} = {form!r}")
    ends = file.metadata.get(END_TOKENS_KEY, array("I"))
    tokens = file.counts["tokenizer.ggml.tokens"]
    if not isinstance(ends, array) or ends.typecode not in "iI" or any(not 0 <= t < tokens for t in ends):
        file.refuse(f"has {END_TOKENS_KEY} that are no tokens")


def _refused(name: str) -> ArtifactError:
    return refused(name, f"is refused by llama.cpp ({last_words() or 'it does not say why'})")
