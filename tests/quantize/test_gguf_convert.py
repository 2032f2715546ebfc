"""Hugging Face folders to GGUF: the same answers and the same tokens, or a refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeops.canonical import sha256_file
from edgeops.engines.llama_engine import LlamaEngine
from edgeops.errors import ArtifactError
from edgeops_testkit.language_models import ARCHITECTURES, CHAT_TEMPLATE, TOKENIZERS, tiny_model
from quantize.gguf_convert import convert
from quantize.gguf_tokenizer import vocabulary_of
from quantize.gguf_tokenizer_check import check_tokenizer

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


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
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
    _tokenizer(lambda c: c.update(normalizer={"type": "NFC"}))(folder)
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


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))

    return change


def _tokenizer(
    edit: Callable[[dict[str, Any]], object], file: str = "tokenizer.json"
) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return change


def _weights(edit: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _scaling(**scaling: Any) -> Callable[[Path], None]:
    return _config(rope_scaling=scaling)


REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "architecture": (_config(architectures=["PhiForCausalLM"]), "config.json", "PhiForCausalLM"),
    "two architectures": (
        _config(architectures=["LlamaForCausalLM", "LlamaModel"]),
        "config.json",
        "architectures",
    ),
    "model type": (_config(model_type="qwen2"), "config.json", "model_type 'qwen2'"),
    "own code": (_config(auto_map={"AutoModel": "x.Y"}), "config.json", "code of its own"),
    "quantized": (_config(quantization_config={"bits": 4}), "config.json", "quantized already"),
    "activation": (_config(hidden_act="gelu"), "config.json", "activation 'gelu'"),
    "no width": (_config(hidden_size="gone"), "config.json", "hidden_size = None"),
    "width as text": (_config(hidden_size="256"), "config.json", "hidden_size = '256'"),
    "another width": (_config(hidden_size=128, head_dim=64), "model.safetensors", r"shape \[512, 256\]"),
    "heads": (_config(num_attention_heads=5, head_dim=64), "config.json", "do not divide"),
    "odd heads": (_config(head_dim=63), "config.json", "odd head_dim"),
    "epsilon": (_config(rms_norm_eps=0), "config.json", "rms_norm_eps"),
    "dynamic rope": (_scaling(rope_type="dynamic", factor=2.0), "config.json", "'dynamic'"),
    "longrope": (_scaling(type="longrope", factor=2.0), "config.json", "'longrope'"),
    "unknown rope": (_scaling(rope_type="new", factor=2.0), "config.json", "'new'"),
    "rope without factor": (_scaling(rope_type="linear"), "config.json", "factor = None"),
    "rope that shrinks": (_scaling(rope_type="linear", factor=0.5), "config.json", "below 1"),
    "yarn of its own": (_scaling(**YARN, attention_factor=2.0), "config.json", "attention_factor"),
    "yarn with another ramp": (_scaling(**YARN, beta_fast=16), "config.json", "beta_fast = 16"),
    "llama3 upside down": (
        _scaling(**(LLAMA3 | {"low_freq_factor": 8.0})),
        "config.json",
        "high_freq_factor",
    ),
    "rope for each kind of layer": (
        _config(rope_parameters={"full_attention": {"rope_type": "default"}}),
        "config.json",
        "each kind of layer",
    ),
    "two thetas": (
        _config(rope_parameters={"rope_type": "default", "rope_theta": 5.0}),
        "config.json",
        "two rope_theta",
    ),
    "partial rope": (_config(partial_rotary_factor=0.5), "config.json", "part of each head"),
    "tensor missing": (
        _weights(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        "config.json",
        "lacks the tensor",
    ),
    "tensor too many": (
        _weights(lambda t: t.update({"model.layers.0.adapter": np.zeros(1, np.float32)})),
        "config.json",
        "has a tensor model.layers.0.adapter",
    ),
    "no output": (_weights(lambda t: t.pop("lm_head.weight")), "config.json", "no lm_head.weight"),
    "integers": (
        _weights(lambda t: t.update({"model.norm.weight": np.ones(256, np.int32)})),
        "model.safetensors",
        "as I32",
    ),
    "not finite": (
        _weights(lambda t: t["model.norm.weight"].__setitem__(0, np.nan)),
        "model.safetensors",
        "not finite",
    ),
    "beyond half precision": (
        _weights(lambda t: t["lm_head.weight"].__setitem__((0, 0), 7e4)),
        "lm_head.weight",
        "half precision",
    ),
    "unigram": (_tokenizer(lambda c: c["model"].update(type="Unigram")), "tokenizer.json", "not BPE"),
    "another split": (
        _tokenizer(lambda c: c.update(pre_tokenizer={"type": "Whitespace"})),
        "tokenizer.json",
        "splits text by a Whitespace",
    ),
    "a space in front": (
        _tokenizer(lambda c: c["pre_tokenizer"].update(add_prefix_space=True)),
        "tokenizer.json",
        "splits text by a ByteLevel",
    ),
    "lower case": (
        _tokenizer(lambda c: c.update(normalizer={"type": "Lowercase"})),
        "tokenizer.json",
        "normalizes text by Lowercase",
    ),
    "whole words": (
        _tokenizer(lambda c: c["model"].update(ignore_merges=True)),
        "tokenizer.json",
        "splits text by a ByteLevel",
    ),
    "dropout": (_tokenizer(lambda c: c["model"].update(dropout=0.1)), "tokenizer.json", "dropout = 0.1"),
    "greedy special token": (
        _tokenizer(lambda c: c["added_tokens"][1].update(lstrip=True)),
        "tokenizer.json",
        "lstrip",
    ),
    "merge into nothing": (
        _tokenizer(lambda c: c["model"]["merges"].append(["!", "zz"])),
        "tokenizer.json",
        "what is no token",
    ),
    "gap in the ids": (
        _tokenizer(lambda c: c["model"]["vocab"].update({"zzz": 9000})),
        "tokenizer.json",
        "without gaps",
    ),
    "more tokens than rows": (
        _tokenizer(lambda c: c["model"]["vocab"].update({"zzz": 512})),
        "tokenizer.json",
        "513 tokens, and the model has 512",
    ),
    "other end of text": (
        _tokenizer(lambda c: c.update(eos_token="<nothing>"), "tokenizer_config.json"),
        "tokenizer.json",
        "no token '<nothing>'",
    ),
    "settings that the file does not follow": (
        _tokenizer(lambda c: c.update(add_bos_token=True), "tokenizer_config.json"),
        "tokenizer.json",
        "add_bos_token = True",
    ),
    "pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "pytorch_model.bin",
        "is a pickle",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors", "is missing"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-9]
        ),
        "model.safetensors",
        "cannot be read as safetensors",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json", "is missing"),
    "broken config": (
        lambda folder: (folder / "config.json").write_text('{"a": 1, "a": 2}'),
        "config.json",
        "a key occurs twice",
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("plain") / "hf")


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_would_be_computed_otherwise_is_refused(plain: Path, tmp_path: Path, name: str) -> None:
    change, subject, says = REFUSED[name]
    folder = shutil.copytree(plain, tmp_path / "hf")
    change(folder)
    with pytest.raises(ArtifactError, match=says) as caught:
        convert(folder, tmp_path / "model.gguf", name="tiny")
    assert caught.value.subject == subject
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("architecture", "changes", "says"),
    [
        ("qwen2", {"rope_scaling": LLAMA3}, "for Llama and Mistral only"),
        ("qwen3", {"attention_bias": True}, "attention_bias, which llama.cpp does not compute"),
        ("qwen2", {"head_dim": 32}, "cannot load with hidden_size"),
        ("gemma", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("gemma", {"hidden_activation": "relu"}, "activation 'relu'"),
        ("gemma", {"tie_word_embeddings": False}, "does not tie the embeddings"),
        ("mistral", {"sliding_window": "gone"}, "whether there is a sliding_window"),
        ("qwen2", {"num_key_value_heads": "gone"}, "num_key_value_heads = None"),
    ],
)
def test_what_an_architecture_has_not_is_refused(
    tmp_path: Path, architecture: str, changes: dict[str, Any], says: str
) -> None:
    folder = tiny_model(tmp_path / "hf", architecture, layers=1)
    _config(**changes)(folder)
    with pytest.raises(ArtifactError, match=says):
        convert(folder, tmp_path / "model.gguf", name="tiny")


def test_theta_of_newer_files_is_read(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "hf", layers=1, rope_theta=777.0)
    convert(folder, tmp_path / "old.gguf", name="tiny")
    _config(rope_theta="gone", rope_parameters={"rope_type": "default", "rope_theta": 777.0})(folder)
    convert(folder, tmp_path / "new.gguf", name="tiny")
    assert sha256_file(tmp_path / "old.gguf") == sha256_file(tmp_path / "new.gguf")


def test_shards_must_be_what_their_index_says(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "hf", shard_size="700KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, last = min(index["weight_map"]), max(index["weight_map"])
    for name, says in (
        ("../x.safetensors", "not a safetensors file beside it"),
        ("x.bin", "not a safetensors"),
    ):
        path.write_text(json.dumps({"weight_map": index["weight_map"] | {first: name}}))
        with pytest.raises(ArtifactError, match=says):
            convert(folder, tmp_path / "model.gguf", name="tiny")
    wrong = index["weight_map"] | {first: index["weight_map"][last]}
    path.write_text(json.dumps({"weight_map": wrong}))
    with pytest.raises(ArtifactError, match="does not fit the shards"):
        convert(folder, tmp_path / "model.gguf", name="tiny")


def test_pieces_that_would_be_joined_otherwise_are_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "hf", tokenizer="llama-spm")
    plain = (folder / "tokenizer.json").read_text()
    content = json.loads(plain)
    merges = content["model"]["merges"]
    twice = next(
        index
        for index, (a, b) in enumerate(merges)
        if sum(c + d == a + b for c, d in merges) > 1 and merges[index - 1] != [a, b]
    )
    content["model"]["merges"] = [merge for index, merge in enumerate(merges) if index != twice]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"does not merge .* and llama\.cpp would"):
        convert(folder, tmp_path / "model.gguf", name="tiny")
    content = json.loads(plain)
    content["model"]["merges"].append(content["model"]["merges"].pop(twice))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="merges of different rank"):
        convert(folder, tmp_path / "model.gguf", name="tiny")


def test_tokens_that_come_out_otherwise_are_refused_with_the_text(plain: Path, tmp_path: Path) -> None:
    convert(plain, tmp_path / "model.gguf", name="tiny")
    config = json.loads((plain / "config.json").read_text())
    vocabulary = vocabulary_of(plain, config, 512)
    check_tokenizer(tmp_path / "model.gguf", plain, vocabulary)
    folder = shutil.copytree(plain, tmp_path / "hf")
    _tokenizer(lambda c: c["model"]["merges"].reverse())(folder)
    with pytest.raises(ArtifactError, match=r"other tokens in llama\.cpp") as caught:
        check_tokenizer(tmp_path / "model.gguf", folder, vocabulary)
    assert caught.value.details["wanted"] != caught.value.details["made"]
    assert caught.value.details["text"]
    with pytest.raises(ArtifactError, match=r"ends nothing in llama\.cpp"):
        check_tokenizer(tmp_path / "model.gguf", plain, replace(vocabulary, ends=(2, 5)))
    with pytest.raises(ArtifactError, match="around a text"):
        check_tokenizer(tmp_path / "model.gguf", plain, replace(vocabulary, add_bos=True))
