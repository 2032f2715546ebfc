"""MLX behind the language interface: on Apple silicon its GPU, elsewhere its CPU backend.

On the CPU all is computed in float32, whatever the file has: float16 and bfloat16 are 10 to 40 times slower
there. Quantized weights stay as they are.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeops.engines.language_base import TokenizerEngine
from edgeops.engines.language_files import LanguageConfig, language_config
from edgeops.engines.mlx_model import build, check_config, check_heads, import_mlx
from edgeops.engines.refusals import one_line, refused
from edgeops.engines.safetensors_file import safetensors_heads
from edgeops.engines.tokenizer import TOKENIZER_FILE, TextTokenizer
from edgeops.engines.variant_files import bundle_file, require_version, variant_file
from edgeops.errors import ArtifactError, InferenceError
from edgeops.manifest import Variant
from edgeops.serving.host import Array


class MlxEngine(TokenizerEngine):
    """A loaded network of mlx-lm. Not thread-safe. The answer depends on the files, the tokens, the version
    of MLX and the device alone."""

    def __init__(
        self,
        model: Any,
        mx: Any,
        device: Any,
        tokenizer: TextTokenizer,
        config: LanguageConfig,
        context_tokens: int | None,
    ) -> None:
        super().__init__(tokenizer, config, context_tokens)
        self._model = model
        self._mx = mx
        self._device = device

    @classmethod
    def load(
        cls, variant: Variant, bundle_dir: Path, *, threads: int = 1, context_tokens: int | None = None
    ) -> MlxEngine:
        """Loads `variant.files[0]` (safetensors) and, beside it, `config.json` and `tokenizer.json`, all
        listed in the variant and verified by the caller. MLX decides itself how many threads it uses;
        `threads` is there because every engine has it.

        Raises `ArtifactError` when a file is missing or refused or the weights do not fit the configuration,
        `ConfigError` when a library is missing or older than `variant.runtime.min_version`.
        """
        if variant.runtime.engine != "mlx":
            raise ArtifactError(
                f"Variant {variant.id!r} asks for the engine {variant.runtime.engine!r}.", subject=variant.id
            )
        mx, _ = import_mlx()
        require_version(variant, importlib.metadata.version("mlx"), "MLX", "mlx")
        config = language_config(variant, bundle_dir)
        check_config(config.raw)
        tokenizer = TextTokenizer.load(variant_file(variant, bundle_dir, TOKENIZER_FILE), truncate=False)
        path = bundle_file(bundle_dir, variant.files[0].path)
        check_heads(config.raw, safetensors_heads(path))
        device = mx.gpu if mx.is_available(mx.gpu) else mx.cpu
        with mx.stream(device):
            try:
                model = build(config.raw, mx.load(str(path)))
                if device == mx.cpu:
                    model.set_dtype(mx.float32)
                mx.eval(model.parameters())
            except RuntimeError as error:
                raise refused(path.name, f"is refused by MLX ({one_line(error)})") from error
        return cls(model, mx, device, tokenizer, config, context_tokens)

    def _scores(self, tokens: Sequence[int]) -> Array:
        return self._run(tokens, None)

    def _empty_context(self) -> Callable[[Sequence[int]], Array]:
        cache = importlib.import_module("mlx_lm.models.cache").make_prompt_cache(self._open())

        def advance(new: Sequence[int]) -> Array:
            row: Array = self._run(new, cache)[-1]
            return row

        return advance

    def close(self) -> None:
        """Frees the weights. Safe to call twice; later calls raise `InferenceError`."""
        self._model = None
        self._mx.clear_cache()

    def _open(self) -> Any:
        if self._model is None:
            raise InferenceError("The engine is closed.")
        return self._model

    def _run(self, tokens: Sequence[int], cache: Any) -> Array:
        model, mx = self._open(), self._mx
        with mx.stream(self._device):
            try:
                output = model(mx.array([list(tokens)], dtype=mx.int32), cache=cache)[0].astype(mx.float32)
                mx.eval(output)
            except (RuntimeError, ValueError, MemoryError) as error:
                raise InferenceError(f"MLX failed on this request ({one_line(error)}).") from error
        rows: Array = np.array(output, copy=True)
        return rows
