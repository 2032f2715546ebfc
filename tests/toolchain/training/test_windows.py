"""Documents as windows: every token is predicted once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeops.errors import ArtifactError
from toolchain.training.vocabulary import train_tokenizer
from toolchain.training.windows import token_stream, windows_of

pytestmark = pytest.mark.slow  # importing torch takes seconds


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
    stream = token_stream(["the pump", "<|user|>stop<|end|><|assistant|>done<|end|>"], tokenizer)
    text = known.decode(stream)
    assert text == "the pump<|end|><|user|>stop<|end|><|assistant|>done<|end|>"
    assert stream.count(known.eos_token_id) == 3


def test_special_tokens_in_a_document_are_one_token_each(tokenizer: Path) -> None:
    stream = token_stream(["<|user|>", "<|assistant|>"], tokenizer)
    assert len(stream) == 4
