"""Runs of small models: what they write, and how a teacher counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit.training import CLASSES, TrainingGround, network, weights_of
from toolchain.evaluation.parting import choosing_rows, load_choosing_part
from toolchain.handover.arrays import DATA_FILE, load_arrays, load_part, save_arrays
from toolchain.training.job import TrainingJob
from toolchain.training.machine import single_machine
from toolchain.training.modules import load_weights
from toolchain.training.run_language import run_language
from toolchain.training.run_rows import run_rows
from toolchain.training.run_text import run_text

pytestmark = pytest.mark.slow  # importing torch takes seconds

ROWS = "tabular-classification"
TEXT = "text-classification"
LANGUAGE = "text-generation"
STEPS = {"steps": 6, "context_tokens": 16, "batch_size": 2}


def trained(run: Any, job: TrainingJob) -> dict[str, Any]:
    """Runs a job, and returns its report."""
    run(job, single_machine("cpu"), lambda _share, _note: None)
    report: dict[str, Any] = json.loads((job.out / "training.json").read_bytes())
    return report


def test_a_run_on_rows_learns_and_tells_so(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    job = ground.job("alone", "network", {"hidden": 8}, training={"epochs": 20})
    report = trained(run_rows, job)
    module = network(hidden=8)
    load_weights(module, job.out / "model" / "weights.safetensors")

    def accuracy_on(inputs: Any, labels: Any) -> float:
        with torch.no_grad():
            return round(float(np.mean(module(torch.from_numpy(inputs)).argmax(1).numpy() == labels)), 6)

    accuracy = accuracy_on(*load_part(tmp_path / "data", "held_out"))
    assert accuracy > 0.8
    assert report == {
        "accuracy": accuracy,
        "calibration_accuracy": accuracy_on(*load_choosing_part(tmp_path / "data")),
        "kind": "alone",
        "parameters": 6 * 8 + 8 + 8 * 3 + 3,
        "seed": 1,
        "source": "python",
        "train_rows": 60,
    }


@pytest.mark.parametrize(("run", "factory", "task"), [(run_rows, "network", ROWS), (run_text, "bert", TEXT)])
def test_the_rows_that_prove_the_fallback_choose_no_run(
    tmp_path: Path, run: Any, factory: str, task: str
) -> None:
    ground = TrainingGround(tmp_path)
    ground = ground.with_rows() if factory == "network" else ground.with_texts()
    ground.with_tokenizer(generates=False)
    options = {"hidden": 8} if factory == "network" else {}
    archive = tmp_path / "data" / DATA_FILE
    arrays = load_arrays(archive)
    labels = arrays["calibration_labels"]
    choosing, proving = labels[: choosing_rows(len(labels))], labels[choosing_rows(len(labels)) :]

    def accuracy(name: str) -> float:
        save_arrays(archive, arrays)
        figure: float = trained(run, ground.job(name, factory, options, task=task))["calibration_accuracy"]
        return figure

    first = accuracy("as-they-are")
    proving[:] = (proving + 1) % len(CLASSES)
    assert accuracy("others-proving") == first
    # Each row is right under one of the three labels that it has in turn.
    choosing[:] = (choosing + 1) % len(CLASSES)
    second = accuracy("others-choosing")
    choosing[:] = (choosing + 1) % len(CLASSES)
    assert first + second + accuracy("the-third") == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("task", "factory"),
    [
        ("rows", "network"),
        pytest.param("text", "bert", marks=pytest.mark.slow),
        pytest.param("language", "llama", marks=pytest.mark.slow),
    ],
)
def test_a_teacher_without_weight_changes_no_bit_and_one_with_weight_does(
    tmp_path: Path, task: str, factory: str
) -> None:
    ground = TrainingGround(tmp_path)
    if task == "rows":
        ground.with_rows()
        run, options, more = run_rows, {"hidden": 4, "dropout": 0.2}, {}
    elif task == "text":
        ground.with_texts().with_tokenizer(generates=False)
        run, options, more = run_text, {}, {"task": TEXT}
    else:
        ground.with_documents().with_tokenizer(generates=True)
        run, options, more = run_language, {}, {"task": LANGUAGE, "training": STEPS}
    for name, seed, teaching in (
        ("teacher", 9, {}),
        ("alone", 1, {}),
        ("idle", 1, {"teacher": "teacher", "alpha": 0.0}),
        ("taught", 1, {"teacher": "teacher", "alpha": 0.5}),
    ):
        report = trained(run, ground.job(name, factory, options, seed=seed, **more, **teaching))
        assert report["kind"] == ("distilled" if teaching else "alone")
    jobs = {name: ground.job(name, factory, options, **more) for name in ("alone", "idle", "taught")}
    assert weights_of(jobs["idle"]) == weights_of(jobs["alone"])
    assert weights_of(jobs["taught"]) != weights_of(jobs["alone"])


def test_hidden_states_are_matched_through_a_projection_that_does_not_ship(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_texts().with_tokenizer(generates=False)
    trained(run_text, ground.job("teacher", "bert", {"layers": 2, "width": 24}, task=TEXT))
    layers = [["bert.encoder.layer.0", "bert.encoder.layer.1"], ["bert.pooler", "bert.pooler"]]
    plain = ground.job("plain", "bert", {}, task=TEXT, teacher="teacher", alpha=0.5)
    matched = ground.job(
        "matched",
        "bert",
        {},
        task=TEXT,
        teacher="teacher",
        alpha=0.5,
        hidden={"weight": 1.0, "layers": layers},
    )
    reports = [trained(run_text, job) for job in (plain, matched)]
    assert reports[0]["parameters"] == reports[1]["parameters"]
    assert weights_of(plain) != weights_of(matched)
    assert b"projections" not in weights_of(matched)


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    trained(run_rows, ground.job("teacher", "network", {"hidden": 8}))
    hidden = {"weight": 1.0, "layers": [["body", "0"]]}
    job = ground.job("student", "network", {"hidden": 4}, teacher="teacher", hidden=hidden)
    with pytest.raises(ConfigError, match="The student has no layer 'body'"):
        trained(run_rows, job)


def test_a_text_model_is_a_folder_that_transformers_reads(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ground = TrainingGround(tmp_path).with_texts().with_tokenizer(generates=False)
    job = ground.job("alone", "bert", {"width": 32}, task=TEXT, training={"epochs": 30})
    report = trained(run_text, job)
    assert 0 <= report["calibration_accuracy"] <= 1
    folder = job.out / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts, labels = load_part(tmp_path / "data", "held_out")
    with torch.no_grad():
        logits = model(**tokenizer(texts.tolist(), padding=True, return_tensors="pt")).logits
    accuracy = float(np.mean(logits.argmax(1).numpy() == labels))
    assert report["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert accuracy > 0.6
    assert model.config.id2label == dict(enumerate(CLASSES))
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_a_language_model_is_a_folder_that_writes(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ground = TrainingGround(tmp_path).with_documents().with_tokenizer(generates=True)
    job = ground.job("alone", "llama", {"width": 32}, task=LANGUAGE, training={**STEPS, "steps": 60})
    report = trained(run_language, job)
    before = trained(run_language, ground.job("short", "llama", {"width": 32}, task=LANGUAGE, training=STEPS))
    assert report["perplexity"] < before["perplexity"]
    assert report["calibration_perplexity"] < before["calibration_perplexity"]
    assert report["train_tokens"] > 100
    tokenizer = AutoTokenizer.from_pretrained(job.out / "model")
    model = AutoModelForCausalLM.from_pretrained(job.out / "model")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "pump"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model.generate(prompt, max_new_tokens=4).shape[1] > prompt.shape[1]


def test_the_teachers_own_text_is_learned_too(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_documents().with_tokenizer(generates=True)
    trained(run_language, ground.job("teacher", "llama", {"layers": 2}, task=LANGUAGE, training=STEPS))
    sequence = {"samples": 3, "prompt_tokens": 4, "temperature": 0.0}
    jobs = [
        ground.job(name, "llama", {}, task=LANGUAGE, training=STEPS, teacher="teacher", sequence=given)
        for name, given in (("tokens", None), ("sequences", sequence), ("again", sequence))
    ]
    reports = [trained(run_language, job) for job in jobs]
    assert weights_of(jobs[0]) != weights_of(jobs[1])
    assert weights_of(jobs[1]) == weights_of(jobs[2])
    assert reports[0]["train_tokens"] == reports[1]["train_tokens"]


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_documents().with_tokenizer(generates=True)
    trained(run_language, ground.job("teacher", "llama", {}, task=LANGUAGE, training=STEPS))
    tokenizer = tmp_path / "teacher" / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(ConfigError, match="another tokenizer"):
        trained(run_language, ground.job("s", "llama", {}, task=LANGUAGE, training=STEPS, teacher="teacher"))


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    inputs = ground.folder / "data" / "data.npz"
    with np.load(inputs) as archive:
        arrays = dict(archive)
    arrays["train_inputs"][3] = np.inf
    np.savez(inputs, **arrays)
    with pytest.raises(ArtifactError, match="diverged") as caught:
        trained(run_rows, ground.job("bad", "network", {"hidden": 4}))
    assert caught.value.remedy is not None and "learning rate" in caught.value.remedy


def test_a_share_of_a_class_leaves_its_other_rows_out(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    job = ground.job("few", "network", {"hidden": 4})
    job.config["model"]["class_share"]["b"] = 0.25
    assert trained(run_rows, job)["train_rows"] == 20 + 5 + 20
    job.config["model"]["class_share"] = {"z": 0.5}
    with pytest.raises(ConfigError, match="'z'"):
        trained(run_rows, job)
    job.config["model"]["class_share"] = dict.fromkeys(CLASSES, 0.0)
    with pytest.raises(ArtifactError, match="no rows"):
        trained(run_rows, job)
