"""Exports of torch and Hugging Face models: what the engine gives is what the model itself gives."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.engines.base import load_engine, load_language_engine
from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit.sources import (
    HUGGINGFACE,
    PYTHON,
    TASK_DATA,
    StepWorker,
    data_folder,
    huggingface_folder,
    model_config,
    resnet_folder,
    step_context,
)
from toolchain.answering.language import MAX_EXACT_BYTES, answer_windows, log_softmax, windows
from toolchain.evaluation.language import compare
from toolchain.evaluation.rows import Asker, as_inputs
from toolchain.evaluation.variant import read_variant
from toolchain.handover.arrays import load_arrays, load_part

TABLE = "tabular-classification"
TASKS = ["text-classification", "token-classification", "feature-extraction", "image-classification"]


@pytest.fixture(scope="module")
def exporter() -> Iterator[StepWorker]:
    """Another worker than the one that imports: steps that export have no memory limit."""
    with StepWorker() as started:
        yield started


def built(
    folder: Path, task: str, worker: StepWorker, exporter: StepWorker, **config: Any
) -> dict[str, Path]:
    """A tiny Hugging Face model imported, exported and asked."""
    source = huggingface_folder(folder / "tiny", task, **config)
    return brought_in(source, folder, task, worker, exporter)


def brought_in(
    source: Path, folder: Path, task: str, worker: StepWorker, exporter: StepWorker
) -> dict[str, Path]:
    factory, given_input = TASK_DATA[task]
    data = data_folder(folder, factory, task, given_input)
    told = model_config(task, HUGGINGFACE)
    made = worker.run("import_huggingface", step_context(folder / "m", told, data=data, folder=source))
    steps = {
        step: exporter.run(step, step_context(folder / step, told, data=data, model=made))
        for step in ("export_onnx", "answers")
    }
    return {"data": data, "variant": steps["export_onnx"] / "variant", "answers": steps["answers"]}


def asked(paths: dict[str, Path], task: str) -> np.ndarray[Any, Any]:
    """What the engine gives on the held-out rows."""
    variant = read_variant(paths["variant"], variant_id="v", format="onnx", precision="fp32")
    engine = load_engine(variant, paths["variant"])
    inputs, _ = load_part(paths["data"], "held_out")
    asker = Asker(engine, {**model_config(task, HUGGINGFACE), "variant": "v"})
    return asker.ask_rows(as_inputs(inputs))


def padding_shows(paths: dict[str, Path], task: str) -> bool:
    """Whether a short text gets another answer beside a long one, which fills it up."""
    variant = read_variant(paths["variant"], variant_id="v", format="onnx", precision="fp32")
    engine = load_engine(variant, paths["variant"])
    output = engine.outputs[0].name
    texts = np.array(["bad", "the dog runs home the dog runs home"], dtype=object)
    together, alone = engine.run({"text": texts})[output], engine.run({"text": texts[:1]})[output]
    return not np.allclose(together[0][: alone.shape[1]], alone[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_hugging_face_model_answers_in_the_engine_as_in_transformers(
    tmp_path: Path, worker: StepWorker, exporter: StepWorker, task: str
) -> None:
    # Wide weights, or all answers of an untrained model would be alike.
    paths = built(tmp_path, task, worker, exporter, initializer_range=0.5)
    wanted, got = load_arrays(paths["answers"] / "answers.npz")["held_out"], asked(paths, task)
    assert got.shape == wanted.shape
    # Pixels are resized to whole numbers, and a tie may be rounded to the other side.
    tolerance = 5e-3 if task == "image-classification" else 1e-5
    assert np.nanmax(np.abs(got - wanted)) < tolerance
    assert np.nanstd(wanted, axis=0).max() > 0.01, "the answers must tell rows apart"
    if task == "feature-extraction":
        assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    else:
        assert np.allclose(np.nansum(got, axis=-1)[~np.isnan(got).any(axis=-1)], 1, atol=1e-5)
    if task != "image-classification":
        config = json.loads((paths["variant"] / "config.json").read_bytes())
        assert config == {"input": "text", "max_tokens": 64}
        assert not padding_shows(paths, task)


@pytest.mark.slow
def test_a_convolutional_model_does_too(tmp_path: Path, worker: StepWorker, exporter: StepWorker) -> None:
    task = "image-classification"
    paths = brought_in(resnet_folder(tmp_path / "tiny"), tmp_path, task, worker, exporter)
    wanted, got = load_arrays(paths["answers"] / "answers.npz")["held_out"], asked(paths, task)
    assert np.abs(got - wanted).max() < 5e-3
    assert wanted.std(axis=0).max() > 0.01, "the answers must tell rows apart"


@pytest.mark.slow
def test_a_language_model_scores_in_the_engine_as_in_transformers(
    tmp_path: Path, worker: StepWorker, exporter: StepWorker
) -> None:
    paths = built(tmp_path, "text-generation", worker, exporter)
    told = load_arrays(paths["answers"] / "answers.npz")
    variant = read_variant(paths["variant"], variant_id="v", format="onnx", precision="fp32")
    engine = load_language_engine(variant, paths["variant"])
    assert told["tokens"].shape == (4, 64)  # 256 held-out tokens, in windows as long as the model's context
    got = np.stack([engine.logits(window.tolist()) for window in told["tokens"]])
    assert np.abs(got - told["held_out"]).max() < 1e-4
    assert engine.end_tokens == {0}


@pytest.mark.slow
def test_an_export_is_the_same_whatever_the_folder_and_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hashlib import sha256\n"
        "from toolchain.exporting.transformer_onnx import export_transformer\n"
        "from quantize.onnx_graph import canonical_bytes\n"
        "source, out = Path(sys.argv[1]), Path(sys.argv[2]); out.mkdir(parents=True)\n"
        "contract = {'name': 'text', 'shape': []}\n"
        "m = export_transformer(source, out, task='text-classification', contract=contract, output='p')\n"
        "data = canonical_bytes(m); assert str(source).encode() not in data\n"
        "print(sha256(data + b''.join(p.read_bytes() for p in sorted(out.iterdir()))).hexdigest())\n"
    )
    digests = set()
    for seed in ("1", "2"):
        source = huggingface_folder(tmp_path / f"from-{seed}" / ("deep" * int(seed)), "text-classification")
        done = subprocess.run(
            [sys.executable, "-c", code, str(source), str(tmp_path / seed / "out")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout.strip().splitlines()[-1])
    assert len(digests) == 1


@pytest.mark.slow
def test_a_torch_module_comes_with_its_weights(
    tmp_path: Path, table: Path, worker: StepWorker, exporter: StepWorker
) -> None:
    import torch
    from safetensors.torch import save_file

    from edgeops_testkit.sources import scored_rows

    torch.manual_seed(7)
    module = scored_rows()
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    config = model_config(TABLE, {**PYTHON, "weights": "w.safetensors"})
    given_files = {"data": table, "weights": tmp_path / "w.safetensors"}
    made = worker.run("import_python", step_context(tmp_path / "m", config, **given_files))
    exported = exporter.run("export_onnx", step_context(tmp_path / "e", config, data=table, model=made))
    told = exporter.run("answers", step_context(tmp_path / "a", config, data=table, model=made))
    paths = {"variant": exported / "variant", "data": table}
    wanted = load_arrays(told / "answers.npz")["held_out"]
    assert np.abs(asked(paths, TABLE) - wanted).max() < 1e-6
    inputs, _ = load_part(table, "held_out")
    with torch.no_grad():
        assert np.allclose(torch.softmax(module(torch.from_numpy(inputs)), 1).numpy(), wanted, atol=1e-6)


@pytest.mark.slow
def test_weights_that_are_none_are_refused(tmp_path: Path, table: Path, worker: StepWorker) -> None:
    import torch
    from safetensors.torch import save_file

    from edgeops_testkit.sources import scored_rows

    torch.save(scored_rows().state_dict(), tmp_path / "pickled.pt")
    save_file(scored_rows(hidden=5).state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-9])
    (tmp_path / "huge.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    for name, what in (
        ("pickled.pt", "pickled.pt is a pickle"),
        ("other.safetensors", "does not hold the weights"),
        ("cut.safetensors", "does not hold the weights"),
        ("huge.safetensors", "does not hold the weights"),
    ):
        config = model_config(TABLE, {**PYTHON, "weights": name})
        context = step_context(tmp_path / f"m-{name}", config, data=table, weights=tmp_path / name)
        with pytest.raises(ArtifactError, match=what):
            worker.run("import_python", context)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    length=st.integers(1, 16),
    most=st.integers(1, 200),
)
def test_windows_are_the_documents_from_the_start(lengths: list[int], length: int, most: int) -> None:
    documents = [list(range(100 * i, 100 * i + count)) for i, count in enumerate(lengths)]
    stream = [token for document in documents for token in document]
    if len(stream) < length:
        with pytest.raises(ArtifactError, match="one window takes"):
            windows(documents, length=length, most_tokens=most)
        return
    cut = windows(documents, length=length, most_tokens=most)
    assert cut.ravel().tolist() == stream[: cut.size]
    assert cut.size <= max(most, length)
    assert cut.shape == (min(len(stream), max(most // length, 1) * length) // length, length)


@pytest.mark.slow
def test_many_scores_are_kept_in_half_the_room_and_hardly_move_the_divergence() -> None:
    vocabulary = 40_000
    rng = np.random.default_rng(0)
    # More tokens than fit as float32, of which only a few differ from zero: the rest costs no time.
    tokens = np.zeros((MAX_EXACT_BYTES // 4 // vocabulary // 64 + 1, 64), np.int64)
    few = rng.normal(scale=4, size=(64, vocabulary)).astype(np.float32)
    answers = answer_windows(tokens, vocabulary, lambda window: few)
    assert answers.dtype == np.float16
    other = few + rng.normal(scale=0.05, size=few.shape).astype(np.float32)
    exact = float((np.exp(log_softmax(few)) * (log_softmax(few) - log_softmax(other))).sum(axis=1).mean())
    figures, _ = compare(tokens[:1], answers[:1], lambda window: other)
    assert figures["kl_mean"] == pytest.approx(exact, abs=1e-4)


def test_too_many_scores_are_refused_before_any_is_made() -> None:
    def never(window: Any) -> Any:
        raise AssertionError("asked for scores")

    with pytest.raises(ConfigError, match=r"vocabulary of 150000 take .* is the most") as caught:
        answer_windows(np.zeros((1000, 256), np.int64), 150_000, never)
    assert caught.value.subject == "evaluation.held_out_tokens"
