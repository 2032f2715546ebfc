"""Hugging Face folders to GGUF: the same answers, the same tokens, the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeops.canonical import sha256_file
from edgeops.engines.llama_engine import LlamaEngine
from edgeops_testkit.folder_changes import LLAMA3, YARN, config_changed, tokenizer_changed
from edgeops_testkit.language_models import ARCHITECTURES, CHAT_TEMPLATE, TOKENIZERS, tiny_model
from quantize.gguf_convert import convert

pytestmark = pytest.mark.slow

TEXT = (
    "Hello wörld, it's 12345 o'clock!  Two  spaces\n\n\tand tabs — 北京 🙂 <|im_end|> end.\t\t<table>     x "
)


def _logits(folder: Path, tokens: list[int]) -> np.ndarray:
    """Hugging Face's logits, float32 of shape (tokens, vocabulary)."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        rows: np.ndarray = model(torch.tensor([tokens])).logits[0].numpy()
    return rows


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def _disagreement(wanted: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """The mean Kullback-Leibler divergence, and the share of rows with the same best token."""
    p, q = _log_softmax(wanted), _log_softmax(got)
    divergence = (np.exp(p) * (p - q)).sum(axis=1).mean()
    return float(divergence), float((p.argmax(axis=1) == q.argmax(axis=1)).mean())


AGREE: dict[str, tuple[str, dict[str, Any]]] = {
    **{architecture: (architecture, {}) for architecture in ARCHITECTURES},
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "llama, as many key-value heads as heads": ("llama", {"kv_heads": 4}),
    "llama, one key-value head": ("llama", {"kv_heads": 1}),
    "llama, with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, scaled as Llama 3": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
    "mistral, scaled as Llama 3": ("mistral", {"rope_scaling": LLAMA3}),
    "llama, linear rope": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, yarn": ("llama", {"rope_scaling": YARN}),
    "qwen2, yarn": ("qwen2", {"rope_scaling": YARN}),
    "qwen3, narrow heads": ("qwen3", {"head_dim": 32}),
    "gemma, wide heads": ("gemma", {"head_dim": 128}),
    "llama, bfloat16 in shards": ("llama", {"dtype": "bfloat16", "shard_size": "700KB"}),
    "qwen2, more rows than tokens": ("qwen2", {"vocabulary": 640}),
}


@pytest.mark.parametrize("name", list(AGREE))
def test_it_answers_as_transformers_does(tmp_path: Path, name: str) -> None:
    architecture, options = AGREE[name]
    folder = tiny_model(tmp_path / "hf", architecture, **options)
    made = convert(folder, tmp_path / "model.gguf", name="tiny")
    engine = LlamaEngine.open(tmp_path / "model.gguf")
    tokens = np.random.default_rng(1).integers(3, 500, 256).tolist()
    divergence, same = _disagreement(_logits(folder, tokens), engine.logits(tokens))
    assert divergence <= 1e-3 / 10  # ten times better than what is promised
    assert same >= 0.99
    assert set(made.after) == {"F16", "F32"}
    assert sum(made.before.values()) + ("Llama 3" in name) == sum(made.after.values())


def test_the_agreement_would_show_a_rope_that_was_left_out(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "hf", rope_scaling=LLAMA3)
    config = json.loads((folder / "config.json").read_text())
    tokens = np.random.default_rng(1).integers(3, 500, 256).tolist()
    wanted = _logits(folder, tokens)
    (folder / "config.json").write_text(json.dumps({**config, "rope_scaling": None}))
    convert(folder, tmp_path / "model.gguf", name="tiny")
    divergence, same = _disagreement(wanted, LlamaEngine.open(tmp_path / "model.gguf").logits(tokens))
    assert divergence > 1e-2
    assert same < 0.9


@pytest.mark.parametrize("style", TOKENIZERS)
def test_it_makes_the_same_tokens_and_the_same_text(tmp_path: Path, style: str) -> None:
    from transformers import AutoTokenizer

    folder = tiny_model(tmp_path / "hf", "llama", tokenizer=style, vocabulary=600)
    convert(folder, tmp_path / "model.gguf", name="tiny")
    engine = LlamaEngine.open(tmp_path / "model.gguf")
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in (
        TEXT,
        TEXT[::-1],
        *TEXT.split(),
        "",
        " ",
        "<|im_start|>user\nHi<|im_end|>\n",
        "e\u0301a\u0308",
    ):
        tokens = theirs.encode(text, add_special_tokens=False)
        assert engine.tokenize(text) == tokens
        assert engine.detokenize(tokens) == theirs.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    assert engine.end_tokens == {2, theirs.eos_token_id}


def test_text_is_composed_first_where_the_tokenizer_does_so(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tiny_model(tmp_path / "hf", "qwen2", tokenizer="qwen2")
    tokenizer_changed(lambda c: c.update(normalizer={"type": "NFC"}))(folder)
    convert(folder, tmp_path / "model.gguf", name="tiny")
    engine = LlamaEngine.open(tmp_path / "model.gguf")
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in ("e\u0301a\u0308", "\u1100\u1161\u11a8", TEXT):
        assert engine.tokenize(text) == theirs.encode(text, add_special_tokens=False)
    assert engine.tokenize("e\u0301") == engine.tokenize("\u00e9")


def test_the_bytes_depend_on_the_content_and_the_name_alone(tmp_path: Path) -> None:
    first = tiny_model(tmp_path / "one" / "hf", layers=1)
    second = shutil.copytree(first, tmp_path / "another folder")
    digests = set()
    for folder in (first, second):
        target = tmp_path / f"{folder.name}.gguf"
        convert(folder, target, name="tiny")
        digests.add(sha256_file(target))
        assert str(tmp_path).encode() not in target.read_bytes()
    assert len(digests) == 1
    convert(first, tmp_path / "other.gguf", name="other")
    assert sha256_file(tmp_path / "other.gguf") not in digests


def test_stock_tools_read_the_file(tmp_path: Path) -> None:
    from gguf import GGUFReader

    folder = tiny_model(tmp_path / "hf", "qwen3", layers=1)
    convert(folder, tmp_path / "model.gguf", name="tiny")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    assert fields["general.architecture"].contents() == "qwen3"
    assert fields["general.name"].contents() == "tiny"
    assert fields["tokenizer.chat_template"].contents() == CHAT_TEMPLATE
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False


def test_a_sliding_window_becomes_the_context(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "hf", "mistral", sliding_window=96, context_tokens=256)
    made = convert(folder, tmp_path / "model.gguf", name="tiny")
    engine = LlamaEngine.open(tmp_path / "model.gguf")
    assert engine.context_tokens == made.arguments["context_tokens"] == 96
    tokens = np.random.default_rng(1).integers(3, 500, 96).tolist()
    assert _disagreement(_logits(folder, tokens), engine.logits(tokens))[0] < 1e-3


def test_theta_of_newer_files_is_read(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "hf", layers=1, rope_theta=777.0)
    convert(folder, tmp_path / "old.gguf", name="tiny")
    config_changed(rope_theta="gone", rope_parameters={"rope_type": "default", "rope_theta": 777.0})(folder)
    convert(folder, tmp_path / "new.gguf", name="tiny")
    assert sha256_file(tmp_path / "old.gguf") == sha256_file(tmp_path / "new.gguf")
