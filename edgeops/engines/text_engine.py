"""Text models: a tokenizer and an ONNX graph as one engine, whose one input is text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
import numpy as np

from edgeops.engines.onnx_engine import OnnxEngine
from edgeops.engines.refusals import refused
from edgeops.engines.tokenizer import TOKENIZER_FILE, TextTokenizer, TokenBatch
from edgeops.errors import BadRequestError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import DTYPES, Array

CONFIG_FILE: Final = "config.json"
TEXT_INPUT: Final = "text"
_GRAPH_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_MAX_CONFIG_BYTES: Final = 1 << 20


class TextConfig(msgspec.Struct, frozen=True):
    """`config.json` of a text variant: the most tokens that the graph takes (None: any number), and the name
    of the engine's input. Other fields are ignored."""

    max_tokens: int | None = None
    input: str = TEXT_INPUT


class TextOnnxEngine:
    """A loaded text model (see `edgeops.engines.base.Engine`): the input is BYTES of shape [-1], an array of
    `str` (dtype object), and the outputs are the graph's.

    An output of shape [batch, tokens, …] (three axes, the second of them free) becomes one of shape
    [batch, words, …]: each word, which is what white space separates, gets the row of its first token.
    Rows beyond a text's last word, and those of words that truncation cut off, are zeros.

    Texts are cut where `tokenizer.json` says, and a batch is filled up to its longest text, which the
    attention mask hides. A graph that measures ranges while it runs (dynamic quantization) may still answer a
    little differently beside other texts than alone.
    """

    def __init__(self, graph: OnnxEngine, tokenizer: TextTokenizer, config: TextConfig) -> None:
        self._graph = graph
        self._tokenizer = tokenizer
        self._inputs = (TensorSpec(name=config.input, dtype="BYTES", shape=(-1,)),)
        self._wanted = [(spec.name, DTYPES[spec.dtype]) for spec in graph.inputs]
        self._by_word = [spec.name for spec in graph.outputs if len(spec.shape) == 3 and spec.shape[1] < 0]

    @classmethod
    def load(cls, variant: Variant, bundle_dir: Path, *, threads: int = 1) -> TextOnnxEngine:
        """Loads the graph `variant.files[0]` and the `tokenizer.json` beside it; `config.json` may be there.

        Raises as `OnnxEngine.load` does, `ConfigError` when the tokenizers library is missing, and
        `ArtifactError` (subject: the file) when the tokenizer or the configuration cannot be used, when the
        tokenizer does not cut texts to what the graph takes, or the graph has inputs other than token ids.
        """
        graph = OnnxEngine.load(variant, bundle_dir, threads=threads)
        folder = bundle_dir / PurePosixPath(variant.files[0].path).parent
        config = _config(folder / CONFIG_FILE) if variant.beside(CONFIG_FILE) else TextConfig()
        tokenizer = TextTokenizer.load(folder / TOKENIZER_FILE)
        if config.max_tokens is not None and not (tokenizer.max_tokens or 1 << 62) <= config.max_tokens:
            raise refused(
                TOKENIZER_FILE,
                f"cuts texts at {tokenizer.max_tokens or 'no number of'} tokens, and the model takes "
                f"{config.max_tokens}",
            )
        for spec in graph.inputs:
            if spec.name not in _GRAPH_INPUTS or spec.dtype not in ("INT64", "INT32") or len(spec.shape) != 2:
                found = f"{spec.name!r} ({spec.dtype} {list(spec.shape)})"
                raise refused(variant.files[0].path, f"has the input {found}, which no tokenizer gives")
        if all(spec.name != "input_ids" for spec in graph.inputs):
            raise refused(variant.files[0].path, "has no input input_ids")
        return cls(graph, tokenizer, config)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The text."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The graph's outputs, in order; see the class for those by token."""
        return self._graph.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises `BadRequestError` when the input is missing, is no such array, or has a
        text without any token; and as `OnnxEngine.run` does."""
        texts = self._texts(inputs)
        if not self._by_word:
            return self._answer(self._tokenizer.encode_batch(texts))
        batch, starts = self._tokenizer.encode_words(texts)
        answer = self._answer(batch)
        for name in self._by_word:
            answer[name] = _first_tokens(answer[name], starts)
        return answer

    def close(self) -> None:
        """Frees the session. Later runs raise `InferenceError`."""
        self._graph.close()

    def _answer(self, batch: TokenBatch) -> dict[str, Array]:
        if not batch.attention_mask.any(axis=1).all():
            name = self._inputs[0].name
            raise BadRequestError(
                f"A text of the input {name!r} has no token.", remedy="Leave empty texts out.", subject=name
            )
        return self._graph.run(
            {name: getattr(batch, name).astype(dtype, copy=False) for name, dtype in self._wanted}
        )

    def _texts(self, inputs: Mapping[str, Array]) -> list[str]:
        name = self._inputs[0].name
        for given in inputs:
            if given != name:
                raise BadRequestError(f"The model has no input {given!r}.", subject=given)
        array = inputs.get(name)
        if array is None:
            raise BadRequestError(f"The input {name!r} is missing.", subject=name)
        if array.dtype != object or array.ndim != 1:
            raise BadRequestError(
                f"The input {name!r} is {array.dtype.name} {list(array.shape)}, and the model wants "
                "BYTES [-1].",
                subject=name,
            )
        texts: list[str] = array.tolist()
        return texts


def _first_tokens(rows: Array, starts: Sequence[Sequence[int]]) -> Array:
    """From one row a token to one a word; `starts` are positions in the row, -1 for none."""
    words = max(len(each) for each in starts)
    result = np.zeros((rows.shape[0], words, rows.shape[2]), rows.dtype)
    for text, positions in enumerate(starts):
        for word, position in enumerate(positions):
            if position >= 0:
                result[text, word] = rows[text, position]
    return result


def _config(path: Path) -> TextConfig:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
        config = msgspec.json.decode(data, type=TextConfig)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise refused(path.name, f"cannot be used ({error})") from error
    if config.max_tokens is not None and config.max_tokens < 1:
        raise refused(path.name, f"allows {config.max_tokens} tokens")
    return config
