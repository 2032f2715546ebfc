"""Whether a GGUF file is a language model that llama.cpp can load without aborting.

llama.cpp checks much of a header by assertions, which end the process, and some of it only when a text is
tokenized or a graph is built. Here are those checks, made beforehand: for every architecture what all of
them share, and for the ones that edgeops converts to also each tensor's name and shape.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Mapping
from pathlib import Path

from edgeops.engines.gguf_file import GgufFile, read_gguf

MAX_TOKENS = 1 << 20
MAX_LAYERS = 512  # llama.cpp's own (LLAMA_MAX_LAYERS)
MAX_CONTEXT_TOKENS = 1 << 24
MAX_WIDTH = 1 << 20

TOKENS = "tokenizer.ggml.tokens"
_TYPES, _SCORES = "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
_BYTE = re.compile(rb"<0x[0-9A-F]{2}>")
_BYTE_TYPE = 6
_TOKENIZERS = ("llama", "gpt2", "gemma4")
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
# Architectures whose tensors are known here in full.
_KNOWN = ("llama", "qwen2", "qwen3", "gemma")


def check_gguf(path: Path, *, allow_links: bool = True) -> GgufFile:
    """Reads the header of `path` (see `read_gguf`) and checks that it is one of a language model.

    Raises `ArtifactError` (subject: the file's name) on what is missing, out of range or contradictory, on
    a token twice, on arrays of tokens of different lengths, and on a file that is one part of several.
    """
    file = read_gguf(path, keep={TOKENS}, allow_links=allow_links)
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", architecture) is None:
        file.refuse(f"has the architecture {architecture!r}")
    if file.metadata.get("split.count", 0) not in (0, 1):
        file.refuse("is one part of a model in several files")
    tokens = _check_tokens(file)
    numbers = _Numbers(file, architecture)
    layers = numbers.whole("block_count", 1, MAX_LAYERS)
    width = numbers.whole("embedding_length", 1, MAX_WIDTH)
    numbers.whole("context_length", 1, MAX_CONTEXT_TOKENS)
    _check_blocks(file, layers)
    _check_embeddings(file, width, tokens)
    if architecture in _KNOWN and not numbers.optional_whole("expert_count", 0):
        _check_known(file, numbers, architecture, layers, width, tokens)
    return file


class _Numbers:
    """The numbers of the architecture, each held to its range."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self._file = file
        self._prefix = architecture

    def whole(self, key: str, least: int, most: int) -> int:
        value = self._file.metadata.get(f"{self._prefix}.{key}")
        if type(value) is not int or not least <= value <= most:
            self._file.refuse(f"has {self._prefix}.{key} = {value!r}, which is not within {least} to {most}")
        return value

    def optional_whole(self, key: str, default: int) -> int:
        if f"{self._prefix}.{key}" not in self._file.metadata:
            return default
        return self.whole(key, 0, 2**31 - 1)

    def positive(self, key: str, default: float | None) -> float:
        value = self._file.metadata.get(f"{self._prefix}.{key}", default)
        if not isinstance(value, float) or not math.isfinite(value) or not 0 < value < 1e12:
            self._file.refuse(f"has {self._prefix}.{key} = {value!r}, which is not a number above 0")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._file.metadata.get(f"{self._prefix}.{key}", default)
        if not isinstance(value, str):
            self._file.refuse(f"has {self._prefix}.{key} that is not text")
        return value


def _check_tokens(file: GgufFile) -> int:
    """Checks the vocabulary and returns its size."""
    model = file.metadata.get("tokenizer.ggml.model")
    if model not in _TOKENIZERS:
        file.refuse(f"has a tokenizer of the kind {model!r}, which is not one of {', '.join(_TOKENIZERS)}")
    tokens = file.metadata.get(TOKENS)
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= MAX_TOKENS:
        file.refuse(f"has no list of 1 to {MAX_TOKENS} tokens")
    known = set(tokens)
    if len(known) != len(tokens) or b"" in known:
        file.refuse("has a token twice, or an empty one")
    for token in tokens:
        if b"\0" in token:  # where it would end for llama.cpp
            file.refuse(f"has the token {token!r}, with a zero in it")
        try:
            token.decode()
        except UnicodeDecodeError:
            file.refuse(f"has the token {token!r}, which is not UTF-8")
    types, scores = file.metadata.get(_TYPES), file.metadata.get(_SCORES)
    for key, values in ((_TYPES, types), (_SCORES, scores)):
        if key in file.metadata and (not isinstance(values, array) or len(values) != len(tokens)):
            file.refuse(f"has {len(tokens)} tokens and {file.counts.get(key, 0)} items in {key}")
    if isinstance(scores, array) and not all(map(math.isfinite, scores)):
        file.refuse(f"has {_SCORES} that are not finite")
    if model == "llama":
        # A text that no piece fits falls back to these, and llama.cpp ends when one is missing or malformed.
        missing = [value for value in range(256) if b"<0x%02X>" % value not in known]
        if missing:
            file.refuse(f"has no token for the byte 0x{missing[0]:02X}")
        if isinstance(types, array):
            for token, kind in zip(tokens, types, strict=True):
                if kind == _BYTE_TYPE and _BYTE.fullmatch(token) is None:
                    file.refuse(f"calls the token {token!r} a byte")
    elif not file.counts.get("tokenizer.ggml.merges") and "tokenizer.ggml.merges" not in file.counts:
        file.refuse("has no merges for its tokens")
    for key, value in file.metadata.items():
        named = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        if named and (type(value) is not int or not 0 <= value < len(tokens)):
            file.refuse(f"has {key} = {value!r}, and {len(tokens)} tokens")
    return len(tokens)


def _check_blocks(file: GgufFile, layers: int) -> None:
    """Each block has tensors, and no tensor is of a block beyond the last."""
    blocks = {int(match[1]) for name in file.tensors if (match := re.match(r"blk\.(\d{1,6})\.", name))}
    if blocks != set(range(layers)):
        file.refuse(f"says that it has {layers} blocks, and has tensors of {len(blocks)}")


def _check_embeddings(file: GgufFile, width: int, tokens: int) -> None:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or embedding.shape != (width, tokens):
        shape = None if embedding is None else list(embedding.shape)
        file.refuse(f"has token_embd.weight of shape {shape}, and {tokens} tokens of width {width}")


def _check_known(
    file: GgufFile, numbers: _Numbers, architecture: str, layers: int, width: int, tokens: int
) -> None:
    heads = numbers.whole("attention.head_count", 1, MAX_WIDTH)
    kv_heads = numbers.optional_whole("attention.head_count_kv", heads)
    if not kv_heads or heads % kv_heads:
        file.refuse(f"has {heads} heads and {kv_heads} key-value heads")
    size = numbers.optional_whole("attention.key_length", width // heads)
    same = {
        size,
        numbers.optional_whole("attention.value_length", width // heads),
        numbers.optional_whole("rope.dimension_count", size),
    }
    if len(same) != 1 or size < 2 or size % 2:
        file.refuse(f"has heads whose parts are {sorted(same)} wide")
    forward = numbers.whole("feed_forward_length", 1, MAX_WIDTH * 8)
    numbers.positive("attention.layer_norm_rms_epsilon", None)
    numbers.positive("rope.freq_base", 10000.0)
    numbers.positive("rope.scaling.factor", 1.0)
    if numbers.text("rope.scaling.type", "none") not in _ROPE_SCALINGS:
        file.refuse(f"has the rope scaling {numbers.text('rope.scaling.type', '')!r}")
    for key in ("attention.causal", "pooling_type", "nextn_predict_layers"):
        if f"{architecture}.{key}" in file.metadata:
            file.refuse(f"sets {architecture}.{key}, so it is no plain causal model")
    wanted, optional = _shapes(
        architecture, layers, width, forward, heads * size, kv_heads * size, size, tokens
    )
    for name, shape in wanted.items():
        if name not in file.tensors:
            file.refuse(f"lacks the tensor {name}")
        _check_shape(file, name, shape)
    for name, tensor in file.tensors.items():
        if name not in wanted:
            if name not in optional:
                file.refuse(f"has a tensor {name}, which {architecture} has not")
            _check_shape(file, name, optional[name])
        if len(tensor.shape) == 1 and tensor.type != "F32":
            file.refuse(f"has the vector {name} as {tensor.type}, not as F32")


def _check_shape(file: GgufFile, name: str, shape: tuple[int, ...]) -> None:
    if file.tensors[name].shape != shape:
        file.refuse(f"has {name} of shape {list(file.tensors[name].shape)}, not {list(shape)}")


def _shapes(
    architecture: str, layers: int, width: int, forward: int, queries: int, keys: int, head: int, tokens: int
) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]:
    """The shapes of the tensors that must be there, and of those that may, by name."""
    wanted: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (width, tokens),
        "output_norm.weight": (width,),
    }
    optional: dict[str, tuple[int, ...]] = {}
    if architecture != "gemma":
        optional["output.weight"] = (width, tokens)
    if architecture == "llama":
        optional["rope_freqs.weight"] = (head // 2,)
    matrices = {
        "attn_q": (width, queries),
        "attn_k": (width, keys),
        "attn_v": (width, keys),
        "attn_output": (queries, width),
        "ffn_gate": (width, forward),
        "ffn_up": (width, forward),
        "ffn_down": (forward, width),
    }
    biases = {"llama": tuple(matrices), "qwen2": ("attn_q", "attn_k", "attn_v")}.get(architecture, ())
    for layer in range(layers):
        block = f"blk.{layer}"
        wanted |= {f"{block}.{name}.weight": shape for name, shape in matrices.items()}
        wanted |= {f"{block}.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")}
        if architecture == "qwen3":
            wanted |= {f"{block}.{name}.weight": (head,) for name in ("attn_q_norm", "attn_k_norm")}
        optional |= {f"{block}.{name}.bias": (matrices[name][1],) for name in biases}
    return wanted, optional
