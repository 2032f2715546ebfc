"""A causal language model in ONNX Runtime: a decoder graph with its key-value cache as inputs and outputs.

The graph is what optimum's `text-generation-with-past` export gives: inputs `input_ids`, `attention_mask`,
usually `position_ids`, and `past_key_values.<layer>.key|value` of shape (batch, heads, past, head size);
outputs `logits` and `present.<layer>.key|value`, which are the next call's past.
https://huggingface.co/docs/optimum-onnx/onnx/usage_guides/export_a_model
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeops.engines.language_base import TokenizerEngine
from edgeops.engines.language_files import LanguageConfig, language_config
from edgeops.engines.onnx_engine import OnnxEngine
from edgeops.engines.tokenizer import TOKENIZER_FILE, TextTokenizer
from edgeops.engines.variant_files import variant_file
from edgeops.errors import ArtifactError, InferenceError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import DTYPES, Array

_IDS, _MASK, _POSITIONS, _LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
_PAST, _PRESENT = "past_key_values.", "present."


class OnnxLanguageEngine(TokenizerEngine):
    """A loaded decoder. Not thread-safe. The answer depends on the files, the tokens, the version of ONNX
    Runtime and the CPU's instruction set alone."""

    def __init__(
        self,
        engine: OnnxEngine,
        tokenizer: TextTokenizer,
        config: LanguageConfig,
        context_tokens: int | None,
    ) -> None:
        super().__init__(tokenizer, config, context_tokens)
        self._engine = engine
        self._inputs = frozenset(spec.name for spec in engine.inputs)
        self._past = tuple(spec for spec in engine.inputs if spec.name.startswith(_PAST))

    @classmethod
    def load(
        cls, variant: Variant, bundle_dir: Path, *, threads: int = 1, context_tokens: int | None = None
    ) -> OnnxLanguageEngine:
        """Loads `variant.files[0]` and, beside it, `tokenizer.json` and `config.json` (Hugging Face's), all
        listed in the variant and verified by the caller, with `threads` intra-op threads.

        Raises `ArtifactError` when a file is missing or refused, or the graph is no decoder as described
        above; `ConfigError` when a library is missing or older than `variant.runtime.min_version`.
        """
        config = language_config(variant, bundle_dir)
        tokenizer = TextTokenizer.load(variant_file(variant, bundle_dir, TOKENIZER_FILE), truncate=False)
        engine = OnnxEngine.load(variant, bundle_dir, threads=threads)
        _check_graph(variant, engine, config)
        return cls(engine, tokenizer, config, context_tokens)

    def _scores(self, tokens: Sequence[int]) -> Array:
        rows: Array = self._run(tokens, self._empty_past())[_LOGITS][0].astype(np.float32, copy=False)
        return rows

    def _empty_context(self) -> Callable[[Sequence[int]], Array]:
        past = self._empty_past()

        def advance(new: Sequence[int]) -> Array:
            nonlocal past
            outputs = self._run(new, past)
            past = {spec.name: outputs[_present(spec.name)] for spec in self._past}
            row: Array = outputs[_LOGITS][0, -1].astype(np.float32, copy=False)
            return row

        return advance

    def close(self) -> None:
        """Frees the session. Safe to call twice; later calls raise `InferenceError`."""
        self._engine.close()

    def _empty_past(self) -> dict[str, Array]:
        return {
            spec.name: np.zeros((1, spec.shape[1], 0, spec.shape[3]), DTYPES[spec.dtype])
            for spec in self._past
        }

    def _run(self, tokens: Sequence[int], past: Mapping[str, Array]) -> dict[str, Array]:
        before = next(iter(past.values())).shape[2]
        count = len(tokens)
        inputs: dict[str, Array] = {
            **past,
            _IDS: np.asarray([tokens], np.int64),
            _MASK: np.ones((1, before + count), np.int64),
        }
        if _POSITIONS in self._inputs:
            inputs[_POSITIONS] = np.arange(before, before + count, dtype=np.int64)[None]
        outputs = self._engine.run(inputs)
        shape = outputs[_LOGITS].shape
        if shape != (1, count, self.vocabulary_size):
            raise InferenceError(
                f"The model gave logits of shape {shape} for {count} tokens of {self.vocabulary_size}."
            )
        return outputs


def _check_graph(variant: Variant, engine: OnnxEngine, config: LanguageConfig) -> None:
    inputs = {spec.name: spec for spec in engine.inputs}
    outputs = {spec.name: spec for spec in engine.outputs}
    past = [name for name in inputs if name.startswith(_PAST)]
    unknown = inputs.keys() - {_IDS, _MASK, _POSITIONS, *past}
    missing = {_IDS, _MASK, _LOGITS, *map(_present, past)} - inputs.keys() - outputs.keys()
    if unknown or missing or not past:
        raise _refused(
            variant, f"is no decoder with a cache: unknown {sorted(unknown)}, missing {sorted(missing)}"
        )
    for name in past:
        before, after = inputs[name], outputs[_present(name)]
        if not _is_cache(before) or after.dtype != before.dtype:
            raise _refused(variant, f"has a cache {name!r} of {before.dtype} {list(before.shape)}")
    vocabulary = outputs[_LOGITS].shape[-1:]
    if vocabulary not in ((config.vocabulary_size,), (-1,)) or outputs[_LOGITS].dtype not in ("FP32", "FP16"):
        raise _refused(
            variant, f"has logits of {outputs[_LOGITS].shape}, and a vocabulary of {config.vocabulary_size}"
        )


def _is_cache(spec: TensorSpec) -> bool:
    return (
        spec.dtype in ("FP32", "FP16")
        and len(spec.shape) == 4
        and spec.shape[2] == -1
        and min(spec.shape[1], spec.shape[3]) > 0
    )


def _present(name: str) -> str:
    return _PRESENT + name.removeprefix(_PAST)


def _refused(variant: Variant, why: str) -> ArtifactError:
    return ArtifactError(
        f"{variant.files[0].path} {why}.",
        remedy="Export the model for text generation with past key values.",
        subject=variant.files[0].path,
    )
