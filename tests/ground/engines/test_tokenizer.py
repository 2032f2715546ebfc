"""The text tokenizer: what it makes of texts, what it refuses, and that no file crashes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edgeops.engines import tokenizer as module
from edgeops.engines.tokenizer import TextTokenizer
from edgeops.errors import ArtifactError, BadRequestError

SPECIAL = ["<unk>", "<pad>", "<s>", "</s>"]
TEXT = ["the pump hums", "the pump is silent", "open the valve, close the valve"]


def _trained() -> Tokenizer:
    """Byte-level BPE with `<s> … </s>` around a text: no text is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return tokenizer


TRAINED = _trained()
PLAIN = TRAINED.to_str()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tokenizer.json"
    file.write_text(PLAIN)
    return file


def test_a_batch_is_filled_up_to_its_longest_text(path: Path) -> None:
    batch = TextTokenizer.load(path).encode_batch(["the pump", "close the valve, close the valve", ""])
    lengths = batch.attention_mask.sum(axis=1).tolist()
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.token_type_ids.shape
    assert batch.input_ids.shape == (3, lengths[1])
    assert {array.dtype for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids)} == {
        np.dtype(np.int64)
    }
    for row, text in enumerate(["the pump", "close the valve, close the valve", ""]):
        want = TRAINED.encode(text).ids
        assert batch.input_ids[row, : lengths[row]].tolist() == want
        assert set(batch.input_ids[row, lengths[row] :].tolist()) <= {SPECIAL.index("<pad>")}
    assert batch.input_ids[2, :2].tolist() == [2, 3]


def test_a_row_does_not_depend_on_its_neighbours(path: Path) -> None:
    loaded = TextTokenizer.load(path)
    alone = loaded.encode_batch(["the pump"])
    together = loaded.encode_batch(["the pump", "open the valve"])
    width = alone.input_ids.shape[1]
    np.testing.assert_array_equal(together.input_ids[0, :width], alone.input_ids[0])


def test_the_file_decides_where_texts_are_cut_and_what_fills_rows(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(PLAIN)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(pad_id=7, pad_token="<unk>", length=40)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    cut = TextTokenizer.load(path)
    assert cut.max_tokens == 5
    batch = cut.encode_batch(["close the valve, close the valve", ""])
    assert batch.input_ids.shape == (2, 5)
    assert batch.input_ids[0, -1] == 3, "the special token at the end survives the cut"
    assert batch.input_ids[1].tolist() == [2, 3, 7, 7, 7]
    whole = TextTokenizer.load(path, truncate=False)
    assert whole.max_tokens is None
    assert len(whole.encode("close the valve, close the valve")) > 5


def test_names_of_special_tokens_become_those_tokens_and_none_is_added(path: Path) -> None:
    loaded = TextTokenizer.load(path)
    tokens = loaded.encode("<s>the pump</s>")
    assert (tokens[0], tokens[-1]) == (2, 3)
    assert loaded.encode("the pump") == tokens[1:-1]
    assert loaded.decode(tokens) == "the pump"
    assert loaded.token_id("</s>") == 3
    assert loaded.token_id("no such token") is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back(text: str) -> None:
    loaded = TextTokenizer(Tokenizer.from_str(PLAIN), "tokenizer.json")
    if not any(name in text for name in SPECIAL):
        assert loaded.decode(loaded.encode(text)) == text


def test_half_a_character_and_unknown_ids_decode_to_what_can_be_shown(path: Path) -> None:
    loaded = TextTokenizer.load(path)
    half = loaded.encode("é")[:1]
    assert loaded.decode(half) == "�"
    assert loaded.decode([loaded.vocabulary_size + 5, *loaded.encode("pump")]) == "pump"


def test_input_that_is_no_text_or_no_token_is_the_callers_fault(path: Path) -> None:
    loaded = TextTokenizer.load(path)
    with pytest.raises(BadRequestError, match="no text"):
        loaded.encode_batch([])
    for call in (lambda: loaded.encode_batch(["a", "\ud800"]), lambda: loaded.encode("\ud800")):
        with pytest.raises(BadRequestError, match="cannot take"):
            call()
    for tokens in ([-1], [2**40]):
        with pytest.raises(BadRequestError, match="cannot take"):
            loaded.decode(tokens)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ArtifactError, match="missing") as caught:
        TextTokenizer.load(path)
    assert caught.value.subject == "tokenizer.json"
    for content in (b"", b"{}", b"\xff\xfe", b"[" * 100_000, json.dumps({"model": 1}).encode()):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="not a tokenizer"):
            TextTokenizer.load(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(module.MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(ArtifactError, match="the most"):
        TextTokenizer.load(path)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_refused_or_still_answers(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(PLAIN.encode())
    for position, value in flips:
        data[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(bytes(data))
    try:
        loaded = TextTokenizer.load(path)
    except ArtifactError as error:
        assert error.subject == "damaged.json"
        return
    try:
        assert loaded.encode_batch(["the pump"]).input_ids.shape[0] == 1
    except BadRequestError as error:
        assert "cannot take" in error.message
