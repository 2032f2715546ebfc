"""Text in, tensors out: a real tokenizer and real graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgeops.canonical import sha256_file
from edgeops.engines.base import Engine, load_engine
from edgeops.engines.onnx_engine import OnnxEngine
from edgeops.engines.text_engine import TextOnnxEngine
from edgeops.engines.worker import EngineWorker
from edgeops.errors import ArtifactError, BadRequestError, InferenceError
from edgeops.manifest import FileEntry, TensorSpec, Variant
from edgeops.serving.host import Array
from edgeops.serving.text_tensor import text_array
from edgeops_testkit.graphs import write_linear
from edgeops_testkit.text_models import (
    CLASSES,
    DEVICE_VARIANT,
    MAX_TOKENS,
    TEXTS,
    tokenizer,
    weights,
    write_text_variant,
)

FOLDER = f"variants/{DEVICE_VARIANT}"


def load(folder: Path, **options: Any) -> Engine:
    return load_engine(write_text_variant(folder, **options), folder)


def answer(engine: Engine, *texts: str) -> Array:
    return engine.run({"text": text_array(texts)})["probabilities"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(tmp_path_factory.mktemp("words"), head="word", sharpness=1.0)


def test_its_interface_is_text(classifier: Engine) -> None:
    assert isinstance(classifier, TextOnnxEngine)
    assert list(classifier.inputs) == [TensorSpec(name="text", dtype="BYTES", shape=(-1,))]
    assert list(classifier.outputs) == [TensorSpec(name="probabilities", dtype="FP32", shape=(-1, 3))]


def test_it_answers_as_tokenizer_and_graph_do(classifier: Engine, tmp_path: Path) -> None:
    write_text_variant(tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / FOLDER / "model.onnx"))
    for text, label in TEXTS:
        ids = np.array([tokenizer().encode(text).ids])
        expected = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        got = answer(classifier, text)
        np.testing.assert_array_equal(got, expected)
        assert CLASSES[int(got.argmax())] == label


def test_a_batch_answers_as_each_text_alone(classifier: Engine) -> None:
    texts = [text for text, _ in TEXTS]
    together = answer(classifier, *texts)
    alone = np.concatenate([answer(classifier, text) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=80), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_text_gets_an_answer(classifier: Engine, texts: list[str]) -> None:
    got = answer(classifier, *texts)
    assert got.shape == (len(texts), 3)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)


def test_a_long_text_is_cut_where_the_tokenizer_says(classifier: Engine) -> None:
    head = "play the next song " * 40
    assert len(tokenizer().encode(head).ids) == MAX_TOKENS
    np.testing.assert_array_equal(answer(classifier, head), answer(classifier, head + "rain " * 100))


def test_each_word_gets_its_first_tokens_answer(words: Engine) -> None:
    """Against the table itself, looked up by the pieces that each word begins with."""
    text = "  turn\ton the Xylophone, Zürich!"
    got = answer(words, text)
    assert got.shape == (1, 5, 3)
    pieces = tokenizer().encode(text)
    for number, word in enumerate(text.split()):
        start = text.index(word)
        token = next(
            i
            for i, (first, last) in zip(pieces.ids, pieces.offsets, strict=True)
            if last > start and text[first:last].strip()
        )
        logits = weights("word")[token]
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(got[0, number], expected, rtol=1e-5)


def test_words_beyond_a_texts_last_are_zeros(words: Engine) -> None:
    got = answer(words, "play", "turn on the light", "   ")
    assert got.shape == (3, 4, 3)
    assert got.any(axis=2).tolist() == [[True] + [False] * 3, [True] * 4, [False] * 4]
    alone = answer(words, "play")
    np.testing.assert_array_equal(got[:1, :1], alone)


def test_words_that_were_cut_off_are_zeros(words: Engine) -> None:
    text = " ".join(["play"] * 50)
    known = answer(words, text).any(axis=2)[0]
    seen = len(text[: tokenizer().encode(text).offsets[-1][1]].split())
    assert 0 < seen < 50
    assert known.tolist() == [True] * seen + [False] * (50 - seen)


def test_an_embedding_is_the_graphs(tmp_path: Path) -> None:
    engine = load(tmp_path, head="embedding", sharpness=1.0)
    ids = tokenizer().encode("play some jazz").ids
    np.testing.assert_allclose(answer(engine, "play some jazz")[0], weights()[ids].mean(axis=0), rtol=1e-5)


def test_the_input_can_have_another_name(tmp_path: Path) -> None:
    engine = load(tmp_path, config={"max_tokens": MAX_TOKENS, "input": "sentence"})
    assert engine.run({"sentence": text_array(["rain"])})["probabilities"].shape == (1, 3)
    with pytest.raises(BadRequestError, match="no input 'text'"):
        answer(engine, "rain")


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "'text' is missing"),
        ({"text": np.array(["a"])}, "wants BYTES"),
        ({"text": text_array(["a"], (1, 1))}, "wants BYTES"),
        ({"text": text_array(["a"]), "more": text_array(["a"])}, "no input 'more'"),
        ({"text": text_array([3])}, "cannot take"),  # type: ignore[list-item]
        ({"text": text_array(["\ud800"])}, "cannot take"),
        ({"text": text_array([])}, "no text"),
    ],
)
def test_inputs_that_do_not_fit_are_the_callers_fault(
    classifier: Engine, inputs: dict[str, Array], says: str
) -> None:
    with pytest.raises(BadRequestError, match=says):
        classifier.run(inputs)


def changed(folder: Path, variant: Variant, name: str, data: bytes) -> Variant:
    path = folder / FOLDER / name
    path.write_bytes(data)
    entry = FileEntry(path=f"{FOLDER}/{name}", sha256=sha256_file(path), size_bytes=len(data))
    files = [each for each in variant.files if each.path != entry.path]
    return msgspec.structs.replace(variant, files=(*files, entry))


def test_a_text_without_any_token_is_refused(tmp_path: Path) -> None:
    """A tokenizer that adds nothing makes nothing of an empty text, and the mean of nothing is no number."""
    variant = write_text_variant(tmp_path)
    document = json.loads(tokenizer().to_str())
    document["post_processor"] = None
    engine = load_engine(
        changed(tmp_path, variant, "tokenizer.json", json.dumps(document).encode()), tmp_path
    )
    assert np.isfinite(answer(engine, "play")).all()
    for texts in ([""], ["play", ""]):
        with pytest.raises(BadRequestError, match="no token"):
            answer(engine, *texts)


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "no tokenizer": ("tokenizer.json", b"{}", "is not a tokenizer"),
    "cut later than the model can": ("config.json", b'{"max_tokens": 31}', "cuts texts at 32 tokens"),
    "no configuration": ("config.json", b"[", "cannot be used"),
    "another configuration": ("config.json", b'{"max_tokens": "many"}', "cannot be used"),
    "no tokens": ("config.json", b'{"max_tokens": 0}', "allows 0 tokens"),
    "no graph": ("model.onnx", b"graph", "is refused by ONNX Runtime"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, case: str) -> None:
    name, data, says = BAD_FILES[case]
    variant = write_text_variant(tmp_path)
    (tmp_path / FOLDER / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=says) as caught:
        load_engine(variant, tmp_path)
    # Of two files that contradict each other the tokenizer is at fault.
    assert str(caught.value.subject).endswith("tokenizer.json" if "cuts" in says else name)


def test_a_model_with_a_limit_needs_a_tokenizer_that_cuts(tmp_path: Path) -> None:
    variant = write_text_variant(tmp_path)
    endless = Tokenizer.from_str(tokenizer().to_str())
    endless.no_truncation()
    with pytest.raises(ArtifactError, match="cuts texts at no number of tokens, and the model takes 32"):
        load_engine(changed(tmp_path, variant, "tokenizer.json", endless.to_str().encode()), tmp_path)


def test_a_graph_that_does_not_take_tokens_is_refused(tmp_path: Path) -> None:
    variant = write_text_variant(tmp_path)
    write_linear(tmp_path / FOLDER / "model.onnx")
    with pytest.raises(ArtifactError, match=r"'pixels' .* which no tokenizer gives"):
        load_engine(variant, tmp_path)


def test_without_its_tokenizer_the_graph_is_one_of_tensors(tmp_path: Path) -> None:
    variant = write_text_variant(tmp_path)
    plain = load_engine(msgspec.structs.replace(variant, files=variant.files[:1]), tmp_path)
    assert isinstance(plain, OnnxEngine)
    assert [spec.name for spec in plain.inputs] == ["input_ids", "attention_mask"]


def test_a_closed_engine_answers_no_more(tmp_path: Path) -> None:
    engine = load(tmp_path)
    engine.close()
    engine.close()
    with pytest.raises(InferenceError, match="closed"):
        answer(engine, "rain")


@pytest.mark.slow
def test_it_runs_in_a_process_of_its_own(classifier: Engine, tmp_path: Path) -> None:
    worker = EngineWorker(write_text_variant(tmp_path), tmp_path, memory_bytes=1 << 30)
    try:
        texts = ["rain in Zürich", "", "a\0b \N{GRINNING FACE}"]
        np.testing.assert_array_equal(answer(worker, *texts), answer(classifier, *texts))
        assert list(worker.inputs) == list(classifier.inputs)
        with pytest.raises(BadRequestError, match="is not text") as caught:
            answer(worker, "\ud800")
        assert caught.value.subject == "text"
        assert worker.pid is not None
        np.testing.assert_array_equal(answer(worker, "rain"), answer(classifier, "rain"))
    finally:
        worker.close()
