"""The language engine on ONNX Runtime, on decoders as optimum exports them, against transformers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from edgeops.engines.base import load_language_engine
from edgeops.engines.language_files import MAX_CONFIG_BYTES
from edgeops.engines.onnx_language import OnnxLanguageEngine
from edgeops.errors import ArtifactError, BadRequestError, ConfigError, InferenceError
from edgeops.manifest import Runtime, Variant
from edgeops.serving.host import Array
from edgeops_testkit.graphs import write_linear
from edgeops_testkit.language_models import tiny_model
from edgeops_testkit.onnx_models import export_language_model, language_variant, relative_error
from quantize import onnx_dynamic, onnx_weight_only

pytestmark = pytest.mark.slow  # an export takes seconds

TEXT = "The statement of the language, and its names."
CONTEXT = 64


@dataclasses.dataclass
class Exported:
    """A Hugging Face folder, and the variant folder made from it."""

    source: Path
    folder: Path
    root: Path

    def reference(self, tokens: list[int]) -> Array:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.source)
        with torch.no_grad():
            rows: Array = model(torch.tensor([tokens])).logits[0].numpy()
        return rows

    def load(self, **changes: Any) -> OnnxLanguageEngine:
        context_tokens = changes.pop("context_tokens", None)
        variant = language_variant(self.folder, self.root, **changes)
        return OnnxLanguageEngine.load(variant, self.root, context_tokens=context_tokens)


def _exported(root: Path, architecture: str, **config: Any) -> Exported:
    source = tiny_model(root / "source", architecture, hidden=64, context_tokens=CONTEXT, **config)
    folder = root / "variants" / "onnx-fp32"
    folder.mkdir(parents=True)
    return Exported(source, export_language_model(source, folder), root)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    tied = {"tie_word_embeddings": request.param == "qwen2"}
    return _exported(tmp_path_factory.mktemp(request.param), request.param, **tied)


@pytest.fixture
def engine(exported: Exported) -> Iterator[OnnxLanguageEngine]:
    loaded = exported.load()
    yield loaded
    loaded.close()


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Exported:
    shutil.copytree(exported.root, tmp_path / "copy")
    return Exported(
        tmp_path / "copy" / "source", tmp_path / "copy" / "variants" / "onnx-fp32", tmp_path / "copy"
    )


def test_logits_are_those_of_transformers(exported: Exported, engine: OnnxLanguageEngine) -> None:
    tokens = engine.tokenize(TEXT)
    got, want = engine.logits(tokens), exported.reference(tokens)
    assert (got.shape, got.dtype) == ((len(tokens), engine.vocabulary_size), np.dtype(np.float32))
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_array_equal(engine.logits(tokens), got)


def test_with_the_cache_it_generates_what_it_would_without(engine: OnnxLanguageEngine) -> None:
    tokens = engine.tokenize(TEXT)
    answer = list(engine.generate(tokens, max_tokens=12))
    assert answer
    for given in range(len(answer)):
        assert int(np.argmax(engine.logits([*tokens, *answer[:given]])[-1])) == answer[given]
    assert list(engine.generate(tokens, max_tokens=12)) == answer, "no call depends on an earlier one"


def test_a_draw_depends_on_its_seed_alone(engine: OnnxLanguageEngine) -> None:
    tokens = engine.tokenize(TEXT)
    draws = [list(engine.generate(tokens, max_tokens=10, temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_two_answers_at_once_do_not_mix(engine: OnnxLanguageEngine) -> None:
    first, second = engine.tokenize("The names"), engine.tokenize("and values of it")
    alone = list(engine.generate(first, max_tokens=6)), list(engine.generate(second, max_tokens=6))
    both = zip(engine.generate(first, max_tokens=6), engine.generate(second, max_tokens=6), strict=False)
    assert all(pair == (alone[0][i], alone[1][i]) for i, pair in enumerate(both))


def test_the_context_bounds_prompt_and_answer(exported: Exported) -> None:
    engine = exported.load(context_tokens=20)
    assert engine.context_tokens == 20
    assert exported.load(context_tokens=10_000).context_tokens == CONTEXT
    tokens = (engine.tokenize(TEXT) * 3)[:20]
    assert engine.logits(tokens).shape[0] == 20
    assert list(engine.generate(tokens, max_tokens=5)) == []
    assert len(list(engine.generate(tokens[:-3], max_tokens=50))) <= 3
    for call in (engine.logits, lambda tokens: engine.generate(tokens, max_tokens=1)):
        for bad in ([], [0] * 21, [-1], [engine.vocabulary_size]):
            with pytest.raises(BadRequestError):
                call(bad)


def test_an_end_token_ends_the_answer_and_is_not_given(copy: Exported) -> None:
    engine = copy.load()
    tokens = engine.tokenize(TEXT)
    answer = list(engine.generate(tokens, max_tokens=8))
    end = answer[3]
    config = json.loads((copy.folder / "config.json").read_text())
    (copy.folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [1, end]}))
    shorter = copy.load()
    assert shorter.end_tokens == {1, end}
    assert list(shorter.generate(tokens, max_tokens=8)) == answer[: answer.index(end)]
    (copy.folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert copy.load().end_tokens == {5}


def test_text_comes_back(engine: OnnxLanguageEngine) -> None:
    assert engine.detokenize(engine.tokenize("Größe, naïve 🙂")) == "Größe, naïve 🙂"
    assert engine.tokenize("a<|im_end|>")[-1] in engine.end_tokens
    assert engine.detokenize(engine.tokenize("a<|im_end|>")) == "a"


@pytest.mark.parametrize("scheme", ["dynamic", "8", "4"])
def test_quantized_decoders_stay_close(exported: Exported, tmp_path: Path, scheme: str) -> None:
    folder = tmp_path / "variant"
    shutil.copytree(exported.folder, folder)
    source, target = exported.folder / "model.onnx", folder / "model.onnx"
    if scheme == "dynamic":
        result = onnx_dynamic.quantize(source, target)
    else:
        result = onnx_weight_only.quantize(source, target, bits=int(scheme))
    # Two layers of seven products and the last layer, which shares its weight in one of the two models.
    assert result.arguments["products"] == 15
    assert target.stat().st_size < 0.6 * source.stat().st_size
    engine = Exported(exported.source, folder, tmp_path).load()
    tokens = engine.tokenize(TEXT)
    error = relative_error(engine.logits(tokens), exported.reference(tokens))
    assert error < {"dynamic": 0.05, "8": 0.05, "4": 0.4}[scheme]
    assert list(engine.generate(tokens, max_tokens=4)) == list(engine.generate(tokens, max_tokens=4))


def test_base_loads_it(exported: Exported) -> None:
    variant = language_variant(exported.folder, exported.root)
    assert load_language_engine(variant, exported.root, threads=2).context_tokens == CONTEXT


def test_closing_twice_is_fine_and_later_calls_are_refused(exported: Exported) -> None:
    engine = exported.load()
    engine.close()
    engine.close()
    with pytest.raises(InferenceError, match="closed"):
        engine.logits([1])


def test_an_older_runtime_is_the_machines_fault(exported: Exported) -> None:
    with pytest.raises(ConfigError, match=r"99\.0"):
        exported.load(runtime=Runtime(engine="onnxruntime", min_version="99.0"))


def _variant_without(variant: Variant, name: str) -> Variant:
    kept = tuple(entry for entry in variant.files if not entry.path.endswith(name))
    return msgspec.structs.replace(variant, files=kept)


def test_files_that_are_not_listed_or_not_there_are_refused(copy: Exported) -> None:
    variant = language_variant(copy.folder, copy.root)
    for name in ("config.json", "tokenizer.json"):
        with pytest.raises(ArtifactError, match="not among the files") as caught:
            OnnxLanguageEngine.load(_variant_without(variant, name), copy.root)
        assert caught.value.subject == f"variants/onnx-fp32/{name}"
    (copy.folder / "config.json").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        OnnxLanguageEngine.load(variant, copy.root)
    (copy.folder / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="inside its bundle"):
        OnnxLanguageEngine.load(variant, copy.root)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"[" * 50_000,
        b"{}",
        b'{"vocab_size": 512}',
        b'{"vocab_size": "512", "max_position_embeddings": 64}',
        b'{"vocab_size": 512, "max_position_embeddings": 64, "eos_token_id": 512}',
        b'{"vocab_size": 512, "max_position_embeddings": 64, "eos_token_id": [true]}',
        b" " * (MAX_CONFIG_BYTES + 1),
    ],
)
def test_a_configuration_that_says_nothing_is_refused(copy: Exported, content: bytes) -> None:
    (copy.folder / "config.json").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        copy.load()
    assert caught.value.subject == "config.json"


def test_a_graph_that_is_no_decoder_with_a_cache_is_refused(copy: Exported) -> None:
    path = copy.folder / "model.onnx"
    model = onnx.load(path)
    model.graph.output.pop()
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match=r"missing \['present\.1\.value'\]"):
        copy.load()
    write_linear(path)
    with pytest.raises(ArtifactError, match="no decoder"):
        copy.load()


def test_another_models_vocabulary_is_refused(copy: Exported) -> None:
    path = copy.folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 300}))
    with pytest.raises(ArtifactError, match="vocabulary of 300"):
        copy.load()
