"""GGUF files made by hand, damaged on purpose, and what becomes of a process that loads one."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeops.engines.gguf_file import read_gguf

# enum gguf_type, as far as it is needed here.
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
Key = tuple[int, Any]


@dataclass
class HandMade:
    """What goes into a GGUF file, open to every change: `keys` by name as (type, value), an array's value
    being (item type, items); `tensors` by name as (sizes, type number, bytes)."""

    keys: dict[str, Key]
    tensors: dict[str, tuple[Sequence[int], int, bytes]]
    version: int = 3
    offsets: Mapping[str, int] = field(default_factory=dict)
    alignment: int = 32

    def to_bytes(self) -> bytes:
        out = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors), len(self.keys))]
        for name, (kind, value) in self.keys.items():
            out += [_string(name), struct.pack("<I", kind), _value(kind, value)]
        offset = 0
        for name, (sizes, kind, data) in self.tensors.items():
            out += [_string(name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
            out.append(struct.pack("<IQ", kind, self.offsets.get(name, offset)))
            offset += len(self._padded(data))
        header = self._padded(b"".join(out))
        return header + b"".join(self._padded(data) for _, _, data in self.tensors.values())

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_bytes())
        return path

    def _padded(self, data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % self.alignment)


def hand_made(
    architecture: str = "llama",
    *,
    tokenizer: str = "gpt2",
    layers: int = 1,
    width: int = 32,
    forward: int = 48,
    context_tokens: int = 128,
) -> HandMade:
    """A whole little model with two heads, random weights in F32, and a vocabulary of bytes."""
    heads = 2
    tokens = _vocabulary(tokenizer)
    rng = np.random.default_rng(0)
    keys: dict[str, Key] = {
        "general.architecture": (STRING, architecture),
        f"{architecture}.block_count": (U32, layers),
        f"{architecture}.context_length": (U32, context_tokens),
        f"{architecture}.embedding_length": (U32, width),
        f"{architecture}.feed_forward_length": (U32, forward),
        f"{architecture}.attention.head_count": (U32, heads),
        f"{architecture}.attention.head_count_kv": (U32, 1),
        f"{architecture}.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        f"{architecture}.rope.freq_base": (F32, 10000.0),
        "tokenizer.ggml.model": (STRING, tokenizer),
        "tokenizer.ggml.pre": (STRING, "gpt-2" if tokenizer == "gpt2" else "default"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, [text for text, _ in tokens])),
        "tokenizer.ggml.token_type": (ARRAY, (5, [kind for _, kind in tokens])),
        "tokenizer.ggml.bos_token_id": (U32, 0),
        "tokenizer.ggml.eos_token_id": (U32, 1),
    }
    if tokenizer == "gpt2":
        keys["tokenizer.ggml.merges"] = (ARRAY, (STRING, ["h e", "l l", "he ll", "hell o"]))
    else:
        keys["tokenizer.ggml.scores"] = (ARRAY, (F32, [0.0] * len(tokens)))
    half = width // heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (width, len(tokens))}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm.weight": (width,),
                "attn_q.weight": (width, width),
                "attn_k.weight": (width, half),
                "attn_v.weight": (width, half),
                "attn_output.weight": (width, width),
                "ffn_norm.weight": (width,),
                "ffn_gate.weight": (width, forward),
                "ffn_up.weight": (width, forward),
                "ffn_down.weight": (forward, width),
            }.items()
        }
    shapes["output_norm.weight"] = (width,)
    tensors = {}
    for name, shape in shapes.items():
        values = rng.normal(size=int(np.prod(shape)))
        # As trained models have them: norms around 1, matrices that keep the size of what goes through.
        values = 1 + values / 5 if len(shape) == 1 else values / np.sqrt(shape[0])
        tensors[name] = (shape, 0, values.astype("<f4").tobytes())
    return HandMade(keys, tensors)


def _vocabulary(tokenizer: str) -> list[tuple[str, int]]:
    """(text, type) of each token: two control tokens, all bytes, and a few words."""
    special = [("<|im_start|>", 3), ("<|im_end|>", 3)]
    if tokenizer == "gpt2":
        from tokenizers import pre_tokenizers

        words = ["he", "ll", "hell", "hello"]
        return special + [(text, 1) for text in [*sorted(pre_tokenizers.ByteLevel.alphabet()), *words]]
    words = ["\u2581", "h", "e", "l", "o", "he", "ll", "hell", "hello"]
    return special + [(f"<0x{value:02X}>", 6) for value in range(256)] + [(text, 1) for text in words]


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        item, items = value
        packed = b"".join(_value(item, each) for each in items)
        return struct.pack("<IQ", item, len(items)) + packed
    letters = {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        U32: "I",
        5: "i",
        F32: "f",
        BOOL: "?",
        10: "Q",
        11: "q",
        12: "d",
    }
    return struct.pack("<" + letters[kind], value)


def header_size(path: Path) -> int:
    """Where the tensors' data begin."""
    return min(tensor.offset for tensor in read_gguf(path).tensors.values())


def damaged(good: bytes, header: int, seed: int, *, vocabulary: range) -> Iterator[tuple[str, bytes]]:
    """Endless variations of a good file, each with its description. Three of four hit what is not the
    `vocabulary` (the place of its strings, which are most of a header)."""
    chance = random.Random(seed)
    while True:
        at = chance.randrange(header)
        if at in vocabulary and chance.random() < 0.75:
            continue
        how = chance.randrange(5)
        data = bytearray(good)
        if how == 0:
            data[at] ^= 1 << chance.randrange(8)
            yield f"bit flipped at {at}", bytes(data)
        elif how == 1:
            data[at] = chance.choice((0, 1, 127, 128, 255))
            yield f"byte {data[at]} at {at}", bytes(data)
        elif how == 2:
            word = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            data[at : at + 8] = word.to_bytes(8, "little")
            yield f"number {word} at {at}", bytes(data)
        elif how == 3:
            length = chance.randrange(1, 64)
            other = chance.randrange(header)
            data[at : at + length] = good[other : other + length]
            yield f"{length} bytes from {other} at {at}", bytes(data[: len(good)])
        else:
            cut = chance.randrange(len(good))
            yield f"cut at {cut}", bytes(data[:cut])


# One process imports llama.cpp and forks for each file, which is a hundred times faster than starting one.
_PROGRAM = """
import json, os, resource, sys
from pathlib import Path
from edgeops.engines.llama_engine import LlamaEngine
from edgeops.engines.llama_library import llama_library
from edgeops.errors import EdgeopsError
llama_library()
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            engine = LlamaEngine.open(Path(json.loads(line)), context_tokens=64)
            tokens = engine.tokenize("Hello w\\u00f6rld 12 <|im_end|>\\n\\x00 \\U0001f642")[:32]
            if tokens:
                engine.logits(tokens)
            engine.detokenize(range(engine.vocabulary_size))
            os._exit(0)
        except EdgeopsError:
            os._exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Loader:
    """Loads files by `LlamaEngine` in processes that may die. Use it as a context manager."""

    def __enter__(self) -> Loader:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        return self

    def load(self, path: Path) -> str:
        """`answers`, `refused`, or `died of N`: the exit status or the negative signal."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(str(path)), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return {0: "answers", 3: "refused"}.get(code, f"died of {code}")

    def __exit__(self, *_exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0
