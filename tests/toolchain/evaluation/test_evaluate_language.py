"""The evaluation of causal language models in llama.cpp, ONNX Runtime and MLX, as a build runs it, against
what transformers answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeops.errors import ArtifactError
from edgeops_testkit.evaluation_steps import read_json, run_step
from edgeops_testkit.language_models import CHAT_TEMPLATE, corpus, tiny_model
from toolchain.evaluation.report import EvaluationResult, read_evaluation
from toolchain.handover.arrays import load_arrays, save_arrays

pytestmark = pytest.mark.slow

DOCUMENTS = list(corpus()[100:160])
CASES = [
    {"name": "any", "user": "What is a list?", "max_tokens": 8, "min_tokens": 1},
    {"name": "impossible", "user": "Hello", "max_tokens": 8, "contains": ["no random model says this"]},
]


class Given:
    """A tiny Llama, what it answers itself, and its variants."""

    def __init__(self, folder: Path) -> None:
        from quantize import gguf_convert, gguf_quantize
        from toolchain.answering.language import answer_transformer

        self.folder = folder
        self.source = tiny_model(folder / "source")
        tokens, logits = answer_transformer(self.source, DOCUMENTS, 512)
        for name in ("data", "answers", "prompts/prompts"):
            (folder / name).mkdir(parents=True)
        save_arrays(folder / "answers" / "answers.npz", {"tokens": tokens, "held_out": logits})
        (folder / "data" / "data.json").write_text('{"classes": []}')
        (folder / "data" / "corpus.json").write_text(json.dumps({"held_out": DOCUMENTS}))
        (folder / "prompts" / "prompts" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        (folder / "prompts" / "prompts" / "system.txt").write_text("Be brief.")
        (folder / "prompts" / "prompts.json").write_text('{"stop": ["\\n\\n\\n"], "context_tokens": 256}')
        self.tokens = tokens
        for name in ("f16", "q4_k_m"):
            (folder / name / "variant").mkdir(parents=True)
        full = folder / "f16" / "variant" / "model.gguf"
        gguf_convert.convert(self.source, full, name="tiny")
        gguf_quantize.quantize(full, folder / "q4_k_m" / "variant" / "model.gguf", "q4_k_m")

    def evaluate(self, model: str, out: str, **changes: Any) -> Path:
        config = {
            "variant": f"gguf-{model}",
            "format": "gguf",
            "precision": model,
            "task": "text-generation",
            "selftest_rows": 2,
            "prompts": {"cases": CASES},
            **changes,
        }
        roles = {name: self.folder / name for name in ("data", "answers", "prompts")}
        return run_step("evaluate_language", self.folder / out, config, model=self.folder / model, **roles)


def evaluation(out: Path) -> EvaluationResult:
    return read_evaluation(read_json(out / "evaluation.json"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def full(given: Given) -> Path:
    return given.evaluate("f16", "out-f16")


def test_a_faithful_conversion_has_hardly_any_divergence(given: Given, full: Path) -> None:
    told = evaluation(full)
    assert told.metrics["kl_mean"] < 1e-3
    assert told.metrics["top1_agreement"] >= 0.99
    assert told.metrics["tokenizer_agreement"] == 1.0
    assert told.metrics["perplexity"] == pytest.approx(told.source["perplexity"], rel=0.01)
    assert told.tokens == given.tokens.size == 512
    assert told.vocabulary_size == 512


def test_quantization_shows(given: Given, full: Path) -> None:
    small = evaluation(given.evaluate("q4_k_m", "out-q4"))
    whole = evaluation(full)
    assert small.metrics["kl_mean"] > 10 * whole.metrics["kl_mean"]
    assert small.metrics["top1_agreement"] < whole.metrics["top1_agreement"]
    assert small.size_bytes < whole.size_bytes


def test_prompts_are_tried_in_the_engine(full: Path) -> None:
    told = evaluation(full)
    assert [case.passed for case in told.prompts] == [True, False]
    assert told.prompts[0].answer
    assert told.prompts[1].failed == ("contains 'no random model says this'",)
    assert told.metrics["prompts_passed"] == 0.5


def test_what_is_measured_is_told_by_token(full: Path) -> None:
    measured = read_json(full / "measurements.json")
    names = {"latency_p50_ms", "latency_p99_ms", "first_token_ms", "tokens_per_s", "memory_bytes"}
    assert set(measured) == names
    assert all(value > 0 for value in measured.values())


def test_self_test_vectors_are_the_logits_after_the_last_token(given: Given, full: Path) -> None:
    vectors = load_arrays(full / "outputs.npz")
    assert np.array_equal(vectors["selftest_inputs"], given.tokens[:2, :32])
    source = load_arrays(given.folder / "answers" / "answers.npz")["held_out"]
    assert np.corrcoef(vectors["selftest_outputs"].ravel(), source[:2, 31].ravel())[0, 1] > 0.999


def test_two_evaluations_are_the_same_bytes(given: Given, full: Path) -> None:
    again = given.evaluate("f16", "out-again")
    for name in ("evaluation.json", "outputs.npz"):
        assert (again / name).read_bytes() == (full / name).read_bytes()


def test_another_vocabulary_is_refused(given: Given, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    answers.mkdir()
    logits = np.zeros((*given.tokens.shape, 500), np.float32)
    save_arrays(answers / "answers.npz", {"tokens": given.tokens, "held_out": logits})
    with pytest.raises(ArtifactError, match="512 tokens"):
        run_step(
            "evaluate_language",
            tmp_path / "out",
            {
                "variant": "gguf-f16",
                "format": "gguf",
                "precision": "f16",
                "selftest_rows": 1,
                "prompts": None,
            },
            data=given.folder / "data",
            answers=answers,
            model=given.folder / "f16",
        )


def test_a_tokenizer_that_reads_otherwise_shows(given: Given, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(given.folder / "data", other / "data")
    changed = [text.replace("e", " e") for text in DOCUMENTS]
    (other / "data" / "corpus.json").write_text(json.dumps({"held_out": changed}))
    out = run_step(
        "evaluate_language",
        other / "out",
        {"variant": "gguf-f16", "format": "gguf", "precision": "f16", "selftest_rows": 1, "prompts": None},
        data=other / "data",
        answers=given.folder / "answers",
        model=given.folder / "f16",
    )
    assert evaluation(out).metrics["tokenizer_agreement"] < 0.5
    with pytest.raises(ArtifactError, match="token by token"):
        _as_baseline(given, other)


def _as_baseline(given: Given, other: Path) -> None:
    model = other / "baseline"
    shutil.copytree(given.folder / "f16", model)
    told = {"version": "1", "variant": "gguf-f16", "format": "gguf", "precision": "f16", "digest": "0"}
    (model / "baseline.json").write_text(json.dumps(told))
    run_step(
        "evaluate_language",
        other / "out-baseline",
        {"variant": "baseline", "format": None, "precision": None, "selftest_rows": 1, "prompts": None},
        data=other / "data",
        answers=given.folder / "answers",
        model=model,
    )


def test_mlx_and_onnx_are_evaluated_by_the_same_code(given: Given) -> None:
    from edgeops_testkit.onnx_models import export_language_model
    from quantize import mlx_group

    mlx = given.folder / "mlx" / "variant"
    mlx_group.convert(given.source, mlx, bits=8, group_size=32)
    export_language_model(given.source, given.folder / "onnx" / "variant")
    for name, worst in (("mlx", 0.01), ("onnx", 1e-4)):
        out = given.evaluate(name, f"out-{name}", variant=f"{name}-x", format=name, precision="x")
        told = evaluation(out)
        assert told.metrics["kl_mean"] < worst
        assert told.metrics["tokenizer_agreement"] == 1.0
        assert told.prompts[0].passed
