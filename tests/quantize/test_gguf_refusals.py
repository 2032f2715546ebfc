"""Hugging Face folders that llama.cpp would compute otherwise: each is refused, by file and by reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeops.errors import ArtifactError
from edgeops_testkit.folder_changes import (
    LLAMA3,
    YARN,
    Change,
    config_changed,
    rope_scaled,
    tokenizer_changed,
    weights_changed,
)
from edgeops_testkit.language_models import tiny_model
from quantize.gguf_convert import convert
from quantize.gguf_tokenizer import vocabulary_of
from quantize.gguf_tokenizer_check import check_tokenizer

pytestmark = pytest.mark.slow

REFUSED: dict[str, tuple[Change, str, str]] = {
    "architecture": (config_changed(architectures=["PhiForCausalLM"]), "config.json", "PhiForCausalLM"),
    "two architectures": (
        config_changed(architectures=["LlamaForCausalLM", "LlamaModel"]),
        "config.json",
        "architectures",
    ),
    "model type": (config_changed(model_type="qwen2"), "config.json", "model_type 'qwen2'"),
    "own code": (config_changed(auto_map={"AutoModel": "x.Y"}), "config.json", "code of its own"),
    "quantized": (config_changed(quantization_config={"bits": 4}), "config.json", "quantized already"),
    "activation": (config_changed(hidden_act="gelu"), "config.json", "activation 'gelu'"),
    "no width": (config_changed(hidden_size="gone"), "config.json", "hidden_size = None"),
    "width as text": (config_changed(hidden_size="256"), "config.json", "hidden_size = '256'"),
    "another width": (
        config_changed(hidden_size=128, head_dim=64),
        "model.safetensors",
        r"shape \[512, 256\]",
    ),
    "heads": (config_changed(num_attention_heads=5, head_dim=64), "config.json", "do not divide"),
    "odd heads": (config_changed(head_dim=63), "config.json", "odd head_dim"),
    "epsilon": (config_changed(rms_norm_eps=0), "config.json", "rms_norm_eps"),
    "dynamic rope": (rope_scaled(rope_type="dynamic", factor=2.0), "config.json", "'dynamic'"),
    "longrope": (rope_scaled(type="longrope", factor=2.0), "config.json", "'longrope'"),
    "unknown rope": (rope_scaled(rope_type="new", factor=2.0), "config.json", "'new'"),
    "rope without factor": (rope_scaled(rope_type="linear"), "config.json", "factor = None"),
    "rope that shrinks": (rope_scaled(rope_type="linear", factor=0.5), "config.json", "below 1"),
    "yarn of its own": (rope_scaled(**YARN, attention_factor=2.0), "config.json", "attention_factor"),
    "yarn with another ramp": (rope_scaled(**YARN, beta_fast=16), "config.json", "beta_fast = 16"),
    "llama3 upside down": (
        rope_scaled(**(LLAMA3 | {"low_freq_factor": 8.0})),
        "config.json",
        "high_freq_factor",
    ),
    "rope for each kind of layer": (
        config_changed(rope_parameters={"full_attention": {"rope_type": "default"}}),
        "config.json",
        "each kind of layer",
    ),
    "two thetas": (
        config_changed(rope_parameters={"rope_type": "default", "rope_theta": 5.0}),
        "config.json",
        "two rope_theta",
    ),
    "partial rope": (config_changed(partial_rotary_factor=0.5), "config.json", "part of each head"),
    "tensor missing": (
        weights_changed(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        "config.json",
        "lacks the tensor",
    ),
    "tensor too many": (
        weights_changed(lambda t: t.update({"model.layers.0.adapter": np.zeros(1, np.float32)})),
        "config.json",
        "has a tensor model.layers.0.adapter",
    ),
    "no output": (weights_changed(lambda t: t.pop("lm_head.weight")), "config.json", "no lm_head.weight"),
    "integers": (
        weights_changed(lambda t: t.update({"model.norm.weight": np.ones(256, np.int32)})),
        "model.safetensors",
        "as I32",
    ),
    "not finite": (
        weights_changed(lambda t: t["model.norm.weight"].__setitem__(0, np.nan)),
        "model.safetensors",
        "not finite",
    ),
    "beyond half precision": (
        weights_changed(lambda t: t["lm_head.weight"].__setitem__((0, 0), 7e4)),
        "lm_head.weight",
        "half precision",
    ),
    "unigram": (tokenizer_changed(lambda c: c["model"].update(type="Unigram")), "tokenizer.json", "not BPE"),
    "another split": (
        tokenizer_changed(lambda c: c.update(pre_tokenizer={"type": "Whitespace"})),
        "tokenizer.json",
        "splits text by a Whitespace",
    ),
    "a space in front": (
        tokenizer_changed(lambda c: c["pre_tokenizer"].update(add_prefix_space=True)),
        "tokenizer.json",
        "splits text by a ByteLevel",
    ),
    "lower case": (
        tokenizer_changed(lambda c: c.update(normalizer={"type": "Lowercase"})),
        "tokenizer.json",
        "normalizes text by Lowercase",
    ),
    "whole words": (
        tokenizer_changed(lambda c: c["model"].update(ignore_merges=True)),
        "tokenizer.json",
        "splits text by a ByteLevel",
    ),
    "dropout": (
        tokenizer_changed(lambda c: c["model"].update(dropout=0.1)),
        "tokenizer.json",
        "dropout = 0.1",
    ),
    "greedy special token": (
        tokenizer_changed(lambda c: c["added_tokens"][1].update(lstrip=True)),
        "tokenizer.json",
        "lstrip",
    ),
    "merge into nothing": (
        tokenizer_changed(lambda c: c["model"]["merges"].append(["!", "zz"])),
        "tokenizer.json",
        "what is no token",
    ),
    "gap in the ids": (
        tokenizer_changed(lambda c: c["model"]["vocab"].update({"zzz": 9000})),
        "tokenizer.json",
        "without gaps",
    ),
    "more tokens than rows": (
        tokenizer_changed(lambda c: c["model"]["vocab"].update({"zzz": 512})),
        "tokenizer.json",
        "513 tokens, and the model has 512",
    ),
    "other end of text": (
        tokenizer_changed(lambda c: c.update(eos_token="<nothing>"), "tokenizer_config.json"),
        "tokenizer.json",
        "no token '<nothing>'",
    ),
    "settings that the file does not follow": (
        tokenizer_changed(lambda c: c.update(add_bos_token=True), "tokenizer_config.json"),
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
    config_changed(**changes)(folder)
    with pytest.raises(ArtifactError, match=says):
        convert(folder, tmp_path / "model.gguf", name="tiny")


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
    tokenizer_changed(lambda c: c["model"]["merges"].reverse())(folder)
    with pytest.raises(ArtifactError, match=r"other tokens in llama\.cpp") as caught:
        check_tokenizer(tmp_path / "model.gguf", folder, vocabulary)
    assert caught.value.details["wanted"] != caught.value.details["made"]
    assert caught.value.details["text"]
    with pytest.raises(ArtifactError, match=r"ends nothing in llama\.cpp"):
        check_tokenizer(tmp_path / "model.gguf", plain, replace(vocabulary, ends=(2, 5)))
    with pytest.raises(ArtifactError, match="around a text"):
        check_tokenizer(tmp_path / "model.gguf", plain, replace(vocabulary, add_bos=True))
