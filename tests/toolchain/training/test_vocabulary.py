"""The tokenizer that a build trains: the same files for the same texts, and every text comes back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeops.engines.tokenizer import TextTokenizer
from edgeops.errors import ArtifactError
from toolchain.training.vocabulary import (
    CHAT_TEMPLATE,
    end_of_document,
    special_tokens,
    train_tokenizer,
)

# transformers, which writes the files, takes seconds to import.
pytestmark = pytest.mark.slow

TEXTS = ["the pump in the workshop is running hot", "stop the pump", "lights off, please"] * 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, generates, chat in (
        ("classifier", False, False),
        ("language", True, False),
        ("chat", True, True),
    ):
        made[name] = tmp_path_factory.mktemp(name)
        train_tokenizer(TEXTS, made[name], vocabulary_size=300, max_tokens=8, generates=generates, chat=chat)
    return made


@settings(deadline=None)
@given(st.text())
def test_every_text_comes_back(folders: dict[str, Path], text: str) -> None:
    tokenizer = TextTokenizer.load(folders["language"] / "tokenizer.json", truncate=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair is no text
    if "<|endoftext|>" not in text:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_same_texts_give_the_same_files_in_another_process(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    code = (
        "import sys, json; from pathlib import Path; from toolchain.training.vocabulary import *; "
        "train_tokenizer(json.loads(sys.argv[1]), Path(sys.argv[2]), vocabulary_size=300, max_tokens=8, "
        "generates=True, chat=True)"
    )
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(TEXTS), str(tmp_path / "again")],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3", "LC_ALL": "C"},
    )
    names = sorted(path.name for path in folders["chat"].iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folders["chat"] / name).read_bytes(), name


def test_a_classifiers_texts_are_framed_and_cut(folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer.load(folders["classifier"] / "tokenizer.json")
    batch = tokenizer.encode_batch(["stop", "the pump in the workshop is running hot " * 5])
    first, last = tokenizer.token_id("[CLS]"), tokenizer.token_id("[SEP]")
    assert tokenizer.max_tokens == 8
    for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        kept = ids[mask == 1]
        assert (kept[0], kept[-1]) == (first, last)
    assert batch.input_ids.shape[1] == 8


def test_a_language_models_texts_are_neither(folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer.load(folders["chat"] / "tokenizer.json")
    assert tokenizer.max_tokens is None
    assert tokenizer.decode(tokenizer.encode("stop the pump " * 9)) == "stop the pump " * 9


def test_special_tokens_are_not_learned_as_words(tmp_path: Path) -> None:
    texts = ["<|user|>stop<|end|><|assistant|>done<|end|>"] * 50 + ["the pump is hot"] * 2
    train_tokenizer(texts, tmp_path, vocabulary_size=300, max_tokens=8, generates=True, chat=True)
    words = json.loads((tmp_path / "tokenizer.json").read_bytes())["model"]["vocab"]
    listed = {"<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"}
    assert {word for word in words if "|" in word} == {*listed, "|"}
    assert words["<|endoftext|>"] == 0


def test_the_chat_template_writes_turns_that_are_single_tokens(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["chat"])
    assert tokenizer.chat_template == CHAT_TEMPLATE
    messages = [{"role": "user", "content": "stop"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>stop<|end|><|assistant|>"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert sum(number in tokenizer.all_special_ids for number in ids) == 3
    with pytest.raises(Exception, match="a role is system, user or assistant"):
        tokenizer.apply_chat_template([{"role": "pump", "content": "stop"}])


def test_documents_end_in_the_token_that_the_folder_names(folders: dict[str, Path]) -> None:
    assert end_of_document(folders["chat"]) == "<|end|>"
    assert end_of_document(folders["language"]) == "<|endoftext|>"
    with pytest.raises(ArtifactError, match="eos_token"):
        end_of_document(folders["classifier"])


def test_no_text_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="too few"):
        train_tokenizer([], tmp_path, vocabulary_size=300, max_tokens=8, generates=True, chat=False)


def test_ids_follow_the_order_of_special_tokens() -> None:
    assert list(special_tokens(generates=False, chat=False)) == ["pad_token", "cls_token", "sep_token"]
    assert special_tokens(generates=True, chat=True)["additional_special_tokens"] == [
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
    ]
