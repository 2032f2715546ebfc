"""The language engine on MLX's CPU backend, against transformers, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeops.engines.base import load_language_engine
from edgeops.engines.mlx_engine import MlxEngine
from edgeops.engines.safetensors_file import safetensors_heads
from edgeops.errors import ArtifactError, BadRequestError, ConfigError, InferenceError
from edgeops.manifest import Runtime
from edgeops.serving.host import Array
from edgeops_testkit.language_models import tiny_model
from edgeops_testkit.onnx_models import language_variant, relative_error
from quantize.mlx_group import convert

pytest.importorskip("mlx.core")
pytestmark = pytest.mark.slow  # importing transformers and mlx-lm takes seconds

TEXT = "The statement of the language, and its names."
CONTEXT = 64
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied-biased": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-rope-llama3": ("llama", {"rope_scaling": LLAMA3}),
    "llama-rope-linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
}


def _reference(source: Path, tokens: list[int], *, rounded: bool = False) -> Array:
    """What torch answers in float32, with weights `rounded` to float16 or as they are."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    if rounded:
        for parameter in model.parameters():  # not the buffers, which rope's angles come from
            parameter.data = parameter.data.half().float()
    with torch.no_grad():
        rows: Array = model(torch.tensor([tokens])).logits[0].numpy()
    return rows


def _load(folder: Path, **options: Any) -> MlxEngine:
    return MlxEngine.load(language_variant(folder, folder.parent, "mlx"), folder.parent, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("mlx") / "source", hidden=64, context_tokens=CONTEXT)


@pytest.fixture(scope="module")
def folder(source: Path) -> Path:
    convert(source, source.parent / "mlx-fp32", bits=None, dtype="float32")
    return source.parent / "mlx-fp32"


@pytest.fixture
def engine(folder: Path) -> Iterator[MlxEngine]:
    loaded = _load(folder)
    yield loaded
    loaded.close()


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "mlx"))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers_and_more_bits_are_closer(tmp_path: Path, name: str) -> None:
    architecture, config = MODELS[name]
    source = tiny_model(tmp_path / "source", architecture, hidden=64, context_tokens=CONTEXT, **config)
    errors = []
    for made, options in (
        ("fp32", {"bits": None, "dtype": "float32"}),
        ("fp16", {"bits": None}),
        ("8bit", {"bits": 8, "group_size": 32}),
        ("4bit", {"bits": 4, "group_size": 32}),
    ):
        convert(source, tmp_path / made, **options)
        engine = _load(tmp_path / made)
        tokens = engine.tokenize(TEXT)
        got, want = engine.logits(tokens), _reference(source, tokens)
        assert (got.shape, got.dtype) == (want.shape, np.dtype(np.float32))
        errors.append(relative_error(got, want))
    assert errors[0] < 3e-4
    assert errors[0] < errors[1] < errors[2] < errors[3] < 0.5
    assert errors[1] < 3e-3
    assert errors[2] < 0.04


def test_a_float16_file_is_computed_in_float32_on_the_cpu(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "fp16", bits=None)
    engine = _load(tmp_path / "fp16")
    tokens = engine.tokenize(TEXT)
    np.testing.assert_allclose(engine.logits(tokens), _reference(source, tokens, rounded=True), atol=2e-5)


def test_with_the_cache_it_generates_what_it_would_without(engine: MlxEngine) -> None:
    tokens = engine.tokenize(TEXT)
    answer = list(engine.generate(tokens, max_tokens=12))
    assert answer
    for given_ in range(len(answer)):
        assert int(np.argmax(engine.logits([*tokens, *answer[:given_]])[-1])) == answer[given_]
    assert list(engine.generate(tokens, max_tokens=12)) == answer, "no call depends on an earlier one"


def test_a_draw_depends_on_its_seed_alone(engine: MlxEngine) -> None:
    tokens = engine.tokenize(TEXT)
    draws = [list(engine.generate(tokens, max_tokens=10, temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_the_context_bounds_prompt_and_answer(folder: Path) -> None:
    engine = _load(folder, context_tokens=20)
    assert engine.context_tokens == 20
    tokens = (engine.tokenize(TEXT) * 3)[:20]
    assert list(engine.generate(tokens, max_tokens=5)) == []
    assert len(list(engine.generate(tokens[:-3], max_tokens=50))) <= 3
    for bad in ([], [0] * 21, [-1], [engine.vocabulary_size]):
        with pytest.raises(BadRequestError):
            engine.logits(bad)


def test_an_end_token_ends_the_answer_and_is_not_given(copy: Path) -> None:
    engine = _load(copy)
    tokens = engine.tokenize(TEXT)
    answer = list(engine.generate(tokens, max_tokens=8))
    end = answer[3]
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    shorter = _load(copy)
    assert shorter.end_tokens == {end}
    assert list(shorter.generate(tokens, max_tokens=8)) == answer[: answer.index(end)]


def test_base_loads_it_and_closing_twice_is_fine(folder: Path) -> None:
    variant = language_variant(folder, folder.parent, "mlx")
    engine = load_language_engine(variant, folder.parent)
    assert engine.detokenize(engine.tokenize("Größe 🙂<|im_end|>")) == "Größe 🙂"
    engine.close()
    engine.close()
    with pytest.raises(InferenceError, match="closed"):
        engine.logits([1])
    with pytest.raises(InferenceError, match="closed"):
        engine.generate([1], max_tokens=1)


def test_another_engine_or_a_later_version_is_refused(folder: Path) -> None:
    variant = language_variant(folder, folder.parent, "mlx")
    for runtime, error in (
        (Runtime(engine="onnxruntime", min_version="1.0"), ArtifactError),
        (Runtime(engine="mlx", min_version="99.1"), ConfigError),
        (Runtime(engine="mlx", min_version="new"), ArtifactError),
    ):
        with pytest.raises(error):
            MlxEngine.load(msgspec.structs.replace(variant, runtime=runtime), folder.parent)


@pytest.mark.parametrize(
    ("hard", "said"), [(4096, "3000"), (1500, "mlx-lm cannot set the limit of open files")]
)
def test_importing_it_keeps_the_number_of_open_files(hard: int, said: str) -> None:
    """mlx_lm changes it for the whole process when it is imported."""
    program = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (min(3000, {hard}), {hard}))\n"
        "from edgeops.engines.mlx_model import import_mlx\n"
        "from edgeops.errors import ConfigError\n"
        "try:\n"
        "    import_mlx()\n"
        "    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    may_raise = hard < 4096 and done.stdout.strip() == str(hard)
    assert may_raise or said in done.stdout


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "model type"),
        ({"hidden_act": "relu"}, "activation"),
        ({"num_hidden_layers": 3}, "do not fit"),
        ({"hidden_size": 32}, "do not fit"),
        ({"vocab_size": 511}, "do not fit"),
        ({"num_hidden_layers": 511}, "511 layers"),
        ({"quantization": {"bits": 4, "group_size": 64, "mode": "mxfp4"}}, "quantization"),
        ({"quantization": "4"}, "quantization"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    copy: Path, changes: dict[str, Any], reason: str
) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ArtifactError, match=reason) as caught:
        _load(copy)
    assert caught.value.subject == "config.json"


def test_every_cut_and_hole_in_the_weights_is_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    for cut in (0, 4, 8, 100, 8 + length - 1, 8 + length, 8 + length + 5, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ArtifactError) as caught:
            _load(copy)
        assert caught.value.subject == "model.safetensors"
    path.write_bytes(data + b"\0")
    with pytest.raises(ArtifactError, match="bytes of data"):
        _load(copy)


def _header(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    header = json.dumps({"a": entry, "b": {"dtype": "U8", "shape": [], "data_offsets": [8, 9]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(9)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "F33"},
        {"dtype": None},
        {"shape": [3]},
        {"shape": [-2]},
        {"shape": "2"},
        {"shape": [1] * 9},
        {"shape": [2.0]},
        {"shape": [1 << 50]},
        {"data_offsets": [1, 9]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 1 << 60]},
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(_header())
    assert {name: head.shape for name, head in safetensors_heads(path).items()} == {"a": (2,), "b": ()}
    path.write_bytes(_header(**changes))
    with pytest.raises(ArtifactError) as caught:
        safetensors_heads(path)
    assert caught.value.subject == "model.safetensors"


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_header_is_refused_or_still_a_valid_one(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(_header())
    for position, value in flips:
        data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(bytes(data))
    try:
        assert all(len(head.shape) <= 8 for head in safetensors_heads(path).values())
    except ArtifactError as error:
        assert error.subject == "damaged.safetensors"


def test_a_flipped_header_of_a_model_never_gets_past_loading_as_another_network(copy: Path) -> None:
    path = copy / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(8, 8 + length, size=60):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(0, 7))
        path.write_bytes(bytes(damaged))
        try:
            assert _load(copy).logits([1, 2]).shape == (2, 512)
        except ArtifactError:
            refused += 1
    assert refused > 40
