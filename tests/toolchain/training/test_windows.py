"""Documents as windows: every token is predicted once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeops.errors import ArtifactError
from toolchain.training.vocabulary import train_tokenizer
from toolchain.training.windows import shuffled_stream, token_documents, windows_of


@settings(deadline=None)  # torch is slow the first time
@given(st.integers(2, 400), st.integers(1, 40))
def test_every_token_but_the_first_is_predicted_once(length: int, context: int) -> None:
    stream = list(range(length))
    if length <= context:
        with pytest.raises(ArtifactError, match="a window takes"):
            windows_of(stream, context, what="training")
        return
    windows = windows_of(stream, context, what="training")
    predicted = windows[:, 1:].flatten().tolist()
    assert predicted == stream[1 : 1 + len(predicted)]
    assert windows[:, :-1].flatten().tolist() == stream[: len(predicted)]
    assert len(stream) - 1 - len(predicted) < context


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["the pump is running hot", "the fan is off", "stop the pump"] * 20
    train_tokenizer(texts, folder, vocabulary_size=300, max_tokens=64, generates=True, chat=True)
    return folder


def test_each_document_ends_once(tokenizer: Path) -> None:
    from toolchain.importing.transformer import load_tokenizer

    known = load_tokenizer(tokenizer)
    documents = token_documents(["the pump", "<|user|>stop<|end|><|assistant|>done<|end|>"], tokenizer)
    assert [known.decode(document) for document in documents] == [
        "the pump<|end|>",
        "<|user|>stop<|end|><|assistant|>done<|end|>",
    ]
    assert [document.count(known.eos_token_id) for document in documents] == [1, 2]


def test_special_tokens_in_a_document_are_one_token_each(tokenizer: Path) -> None:
    documents = token_documents(["<|user|>", "<|assistant|>"], tokenizer)
    assert [len(document) for document in documents] == [2, 2]


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(0, 99))
def test_a_stream_has_each_document_once_in_every_round(count: int, length: int, seed: int) -> None:
    documents = [[number] * (number % 3 + 1) for number in range(count)]
    size = sum(map(len, documents))
    stream = shuffled_stream(documents, length, seed=seed)
    assert len(stream) >= length and len(stream) % size == 0
    for start in range(0, len(stream), size):
        assert sorted(stream[start : start + size]) == sorted(token for d in documents for token in d)
    assert stream == shuffled_stream(documents, length, seed=seed)


def test_rounds_have_different_orders() -> None:
    documents = [[number] for number in range(50)]
    stream = shuffled_stream(documents, 150, seed=3)
    assert len({tuple(stream[start : start + 50]) for start in (0, 50, 100)}) == 3
    assert stream != shuffled_stream(documents, 150, seed=4)
