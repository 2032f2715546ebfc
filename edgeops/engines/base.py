"""One interface over ONNX Runtime, llama.cpp and MLX.

Engines are native code: a file that passes its digest can still abort the process. So nothing that
must survive loads one in its own process: the agent has serving processes, and the toolchain and the
hub use `edgeops.engines.worker`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgeops.engines.tokenizer import TOKENIZER_FILE
from edgeops.errors import ArtifactError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import Array


class Engine(Protocol):
    """A loaded variant. Not thread-safe unless an implementation says so."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The graph's inputs, in order."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The graph's outputs, in order."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Inputs must have the right names, dtypes and ranks
        (`BadRequestError`); what the engine itself fails on is an `InferenceError`."""

    def close(self) -> None:
        """Frees what the engine holds. Safe to call twice."""


class LanguageEngine(Protocol):
    """A loaded causal language model. Not thread-safe. Each call starts from an empty context, so that no
    answer depends on an earlier call."""

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are; ids go from 0 to one less."""

    @property
    def context_tokens(self) -> int:
        """The most tokens, prompt and answer together, that one call can hold."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end an answer."""

    def tokenize(self, text: str) -> list[int]:
        """The text's tokens. The names of special tokens in it become those tokens; none is added."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out; bytes that are no UTF-8 become U+FFFD."""

    def logits(self, tokens: Sequence[int]) -> Array:
        """float32 of shape (len(tokens), vocabulary_size): row i scores what follows token i.
        More tokens than the context holds, or none, is a `BadRequestError`."""

    def generate(
        self, tokens: Sequence[int], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """Tokens that follow, until an end token (not given) or `max_tokens`, or until the context is full.
        At temperature 0 always the most probable one (the smallest id of equals); else drawn, by `seed`."""

    def close(self) -> None:
        """Frees what the engine holds. Safe to call twice."""


def load_engine(variant: Variant, bundle_dir: Path, *, threads: int = 1) -> Engine:
    """Loads a variant's files (verified by the caller) into this process: an ONNX graph of tensors, or with a
    `tokenizer.json` beside it one of text.

    Raises `ArtifactError` when the engine refuses the file, `ConfigError` when the engine's library
    is missing or older than `variant.runtime.min_version`.
    """
    if variant.format == "onnx":
        if variant.beside(TOKENIZER_FILE) is not None:
            from edgeops.engines.text_engine import TextOnnxEngine

            return TextOnnxEngine.load(variant, bundle_dir, threads=threads)
        from edgeops.engines.onnx_engine import OnnxEngine

        return OnnxEngine.load(variant, bundle_dir, threads=threads)
    raise ArtifactError(
        f"Variant {variant.id!r} has the format {variant.format!r}, which only language engines load.",
        remedy="Choose a variant in the ONNX format.",
        subject=variant.id,
    )


def load_language_engine(
    variant: Variant, bundle_dir: Path, *, threads: int = 1, context_tokens: int | None = None
) -> LanguageEngine:
    """Loads a causal language model's files (verified by the caller) into this process. `context_tokens`
    bounds the context; None means what the model was trained with.

    Raises `ArtifactError` when the file is refused, `ConfigError` when the engine's library is missing or
    older than `variant.runtime.min_version`.
    """
    if variant.format == "gguf":
        from edgeops.engines.llama_engine import LlamaEngine

        return LlamaEngine.load(variant, bundle_dir, threads=threads, context_tokens=context_tokens)
    if variant.format == "mlx":
        from edgeops.engines.mlx_engine import MlxEngine

        return MlxEngine.load(variant, bundle_dir, threads=threads, context_tokens=context_tokens)
    from edgeops.engines.onnx_language import OnnxLanguageEngine

    return OnnxLanguageEngine.load(variant, bundle_dir, threads=threads, context_tokens=context_tokens)
