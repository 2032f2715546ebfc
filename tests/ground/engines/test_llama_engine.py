"""The llama.cpp engine: what it answers, that nothing is left between calls, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeops.canonical import sha256_file
from edgeops.engines.base import load_language_engine
from edgeops.engines.llama_engine import END_TOKENS_KEY, NORMALIZATION_KEY, LlamaEngine
from edgeops.engines.sampling import choose
from edgeops.errors import ArtifactError, BadRequestError, ConfigError, InferenceError
from edgeops.manifest import FileEntry, Runtime, Variant
from edgeops_testkit.gguf_files import ARRAY, STRING, U32, hand_made

PROMPT = [5, 70, 33, 120, 8]


def _variant(path: Path, root: Path, *, engine: str = "llama.cpp", min_version: str = "0.3") -> Variant:
    entry = FileEntry(
        path=path.relative_to(root).as_posix(), sha256=sha256_file(path), size_bytes=path.stat().st_size
    )
    return Variant(
        id="gguf-f16",
        format="gguf",
        precision="f16",
        files=(entry,),
        runtime=Runtime(engine=engine, min_version=min_version),
        memory_bytes=64 << 20,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_made(layers=2).write(tmp_path_factory.mktemp("bundle") / "variants" / "a" / "model.gguf")


@pytest.fixture
def engine(model: Path) -> Iterator[LlamaEngine]:
    loaded = LlamaEngine.open(model)
    yield loaded
    loaded.close()


def test_a_bundles_variant_is_loaded_from_its_folder(model: Path) -> None:
    root = model.parents[2]
    loaded = load_language_engine(_variant(model, root), root, threads=2)
    assert isinstance(loaded, LlamaEngine)
    assert loaded.vocabulary_size == 262
    assert loaded.context_tokens == 128
    assert loaded.end_tokens == {1}
    assert load_language_engine(_variant(model, root), root, context_tokens=64).context_tokens == 64
    assert load_language_engine(_variant(model, root), root, context_tokens=4096).context_tokens == 128


def test_logits_are_of_every_position_and_of_what_came_before_only(engine: LlamaEngine) -> None:
    rows = engine.logits(PROMPT)
    assert rows.shape == (5, 262)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(engine.logits([*PROMPT[:3], 9, 9])[:3], rows[:3], rtol=1e-3, atol=1e-3)
    assert np.abs(engine.logits([*PROMPT[:3], 9, 9])[3:] - rows[3:]).max() > 0.1


def test_a_long_text_is_computed_in_parts_that_fit_together(tmp_path: Path) -> None:
    long = LlamaEngine.open(hand_made(context_tokens=1200).write(tmp_path / "model.gguf"))
    tokens = np.random.default_rng(0).integers(2, 262, 1200).tolist()
    rows = long.logits(tokens)
    assert rows.shape == (1200, 262)
    for cut in (1, 511, 512, 513, 1024, 1025, 1200):
        np.testing.assert_allclose(long.logits(tokens[:cut])[-1], rows[cut - 1], rtol=1e-2, atol=1e-2)


def test_nothing_is_left_between_calls(engine: LlamaEngine, model: Path) -> None:
    first = engine.logits(PROMPT)
    engine.logits([9] * 100)
    list(engine.generate([7, 8, 9], max_tokens=20, temperature=1.0, seed=3))
    np.testing.assert_array_equal(engine.logits(PROMPT), first)
    np.testing.assert_array_equal(LlamaEngine.open(model).logits(PROMPT), first)
    first[:] = 0
    assert engine.logits(PROMPT).any()


def test_greedy_generation_takes_the_best_token_each_time(engine: LlamaEngine) -> None:
    answer = list(engine.generate(PROMPT, max_tokens=12))
    assert len(answer) == 12
    rows = engine.logits([*PROMPT, *answer])[len(PROMPT) - 1 : -1]
    gaps = np.sort(rows, axis=1)
    clear = gaps[:, -1] - gaps[:, -2] > 0.01  # one at a time and all at once differ in the last bits
    assert (rows.argmax(axis=1) == answer)[clear].all()
    assert clear.sum() >= 8


def test_drawn_answers_depend_on_the_seed_and_follow_the_shared_rule(engine: LlamaEngine) -> None:
    one, again, other = (
        list(engine.generate(PROMPT, max_tokens=20, temperature=1.5, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == again != other
    rng = np.random.Generator(np.random.PCG64(1))
    assert one[0] == choose(engine.logits(PROMPT)[-1], 1.5, rng)


def test_answers_end_with_an_end_token_or_with_the_context(tmp_path: Path) -> None:
    made = hand_made()
    for ends in (PROMPT[0], None):
        path = made.write(tmp_path / "model.gguf")
        engine = LlamaEngine.open(path)
        answer = list(engine.generate(PROMPT, max_tokens=10_000))
        if ends is not None:
            assert len(answer) == 128 - len(PROMPT)
            # The same model, told that the fifth token of that answer is its end.
            made.keys["tokenizer.ggml.eos_token_id"] = (U32, answer[4])
            first = answer.index(answer[4])
        else:
            assert len(answer) == first


def test_an_answer_cannot_go_on_once_another_call_has_begun(engine: LlamaEngine) -> None:
    running = engine.generate(PROMPT, max_tokens=5)
    next(running)
    engine.logits(PROMPT)
    with pytest.raises(InferenceError, match="Another call has begun"):
        next(running)


def test_text_comes_back_from_its_tokens(engine: LlamaEngine) -> None:
    for text in ("hello", " two  spaces ", "wörld 北京 \U0001f642\n\t", "a\0b", ""):
        assert engine.detokenize(engine.tokenize(text)) == text
    assert engine.tokenize("hello") == [261]
    assert engine.tokenize("a<|im_end|>b")[1] == 1
    assert engine.detokenize([0, *engine.tokenize("a"), 1]) == "a"
    assert engine.detokenize(engine.tokenize("ö")[:1]) == "\ufffd"


def test_text_is_normalized_where_the_file_asks_for_it(tmp_path: Path) -> None:
    made = hand_made()
    plain = LlamaEngine.open(made.write(tmp_path / "plain.gguf"))
    made.keys[NORMALIZATION_KEY] = (STRING, "NFC")
    normal = LlamaEngine.open(made.write(tmp_path / "normal.gguf"))
    assert normal.tokenize("e\u0301") == normal.tokenize("\u00e9") == plain.tokenize("\u00e9")
    assert plain.tokenize("e\u0301") != plain.tokenize("\u00e9")
    made.keys[NORMALIZATION_KEY] = (STRING, "LOWER")
    with pytest.raises(ArtifactError, match="text_normalization = 'LOWER'"):
        LlamaEngine.open(made.write(tmp_path / "odd.gguf"))


def test_the_file_says_which_tokens_end_an_answer_and_which_are_hidden(tmp_path: Path) -> None:
    made = hand_made()
    tokens, types = (made.keys[f"tokenizer.ggml.{key}"][1][1] for key in ("tokens", "token_type"))
    tokens[260] = "<|endoftext|>"  # whose name alone makes it an end, and hidden, for llama.cpp
    assert LlamaEngine.open(made.write(tmp_path / "a.gguf")).end_tokens == {1, 260}
    made.keys[END_TOKENS_KEY] = (ARRAY, (U32, [1, 70]))
    engine = LlamaEngine.open(made.write(tmp_path / "b.gguf"))
    assert engine.end_tokens == {1, 70}
    assert types[260] == 1
    assert engine.detokenize([261, 260, 0]) == "hello<|endoftext|>"
    made.keys[END_TOKENS_KEY] = (ARRAY, (U32, [262]))
    with pytest.raises(ArtifactError, match="end_token_ids that are no tokens"):
        LlamaEngine.open(made.write(tmp_path / "c.gguf"))


def test_pieces_of_sentencepiece_lose_the_space_in_front_that_they_were_given(tmp_path: Path) -> None:
    engine = LlamaEngine.open(hand_made(tokenizer="llama").write(tmp_path / "model.gguf"))
    assert engine.tokenize("hello") == [258, 266]
    assert engine.detokenize([258, 266, 258, 266]) == "hello hello"


@pytest.mark.parametrize("tokens", [[], [1] * 129, [262], [-1], [True], ["a"]])
def test_tokens_that_do_not_fit_are_the_callers_fault(engine: LlamaEngine, tokens: list[int]) -> None:
    with pytest.raises(BadRequestError) as caught:
        engine.logits(tokens)
    assert caught.value.subject == "tokens"
    with pytest.raises(BadRequestError):
        engine.generate(tokens, max_tokens=1)


def test_text_that_is_no_unicode_is_the_callers_fault(engine: LlamaEngine) -> None:
    with pytest.raises(BadRequestError, match="not Unicode"):
        engine.tokenize("\ud800")
    with pytest.raises(BadRequestError, match="not a token"):
        engine.detokenize([262])


def test_a_closed_engine_answers_no_more(model: Path) -> None:
    engine = LlamaEngine.open(model)
    running = engine.generate(PROMPT, max_tokens=5)
    next(running)
    engine.close()
    engine.close()
    for call in (
        lambda: engine.logits(PROMPT),
        lambda: engine.tokenize("a"),
        lambda: engine.detokenize([1]),
        lambda: engine.generate(PROMPT, max_tokens=1),
        lambda: next(running),
    ):
        with pytest.raises(InferenceError):
            call()


def test_versions_and_other_engines(model: Path) -> None:
    import llama_cpp

    root = model.parents[2]
    for wanted in ("0", "0.3", llama_cpp.__version__):
        LlamaEngine.load(_variant(model, root, min_version=wanted), root).close()
    with pytest.raises(ConfigError, match="needs llama-cpp-python 99 or later"):
        LlamaEngine.load(_variant(model, root, min_version="99"), root)
    with pytest.raises(ArtifactError, match="not a version"):
        LlamaEngine.load(_variant(model, root, min_version="new"), root)
    with pytest.raises(ArtifactError, match="'vllm'"):
        LlamaEngine.load(_variant(model, root, engine="vllm"), root)


def test_files_that_are_missing_or_lead_outside_are_refused(model: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.gguf").symlink_to(model)
    variant = _variant(bundle / "model.gguf", bundle)
    with pytest.raises(ArtifactError, match="not a file inside its bundle"):
        LlamaEngine.load(variant, bundle)
    (bundle / "model.gguf").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        LlamaEngine.load(variant, bundle)


def test_what_llama_cpp_refuses_names_the_file_and_its_reason(tmp_path: Path) -> None:
    made = hand_made()
    made.keys["tokenizer.ggml.pre"] = (STRING, "no-such-split")
    with pytest.raises(
        ArtifactError, match=r"model\.gguf is refused by llama\.cpp .*no-such-split"
    ) as caught:
        LlamaEngine.open(made.write(tmp_path / "model.gguf"))
    assert caught.value.subject == "model.gguf"


@pytest.mark.slow
def test_it_is_quiet_keeps_no_file_open_and_is_a_changed_file_to_nobody(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes())
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import psutil
        from edgeops.engines.llama_engine import LlamaEngine
        path = Path(sys.argv[1])
        engine = LlamaEngine.open(path)
        before = engine.logits([3, 4, 5])
        assert not [each for each in psutil.Process().open_files() if each.path == str(path)]
        path.write_bytes(b"")
        assert (engine.logits([3, 4, 5]) == before).all()
        print("same")
        """
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "same\n", "")


@pytest.mark.slow
def test_importing_the_engines_does_not_import_llama_cpp() -> None:
    program = (
        "import sys, edgeops.engines.base, edgeops.engines.llama_engine; print('llama_cpp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
