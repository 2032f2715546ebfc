"""Training on GPUs: the same runs as on the CPU, on one GPU and on all there are, over NCCL."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from edgeops_testkit.training import TrainingGround, weights_of
from toolchain.training.machine import Device, process_count, single_machine
from toolchain.training.processes import Run, launch
from toolchain.training.run_language import run_language
from toolchain.training.run_rows import run_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU in this machine"),
]

TASK = "text-generation"
STEPS = {"steps": 40, "context_tokens": 16, "batch_size": 8}


def trained(run: Run[Any], job: Any, device: Device, processes: int) -> tuple[dict[str, Any], list[float]]:
    """Runs a job; its report, and the losses that it told on its way."""
    notes: list[str] = []
    launch(run, job, device=device, processes=processes, progress=lambda _share, note: notes.append(note))
    report: dict[str, Any] = json.loads((job.out / "training.json").read_bytes())
    return report, [float(note.rpartition(" ")[2]) for note in notes if "loss" in note]


def test_a_gpu_is_taken_where_there_is_one() -> None:
    assert single_machine("auto").device.type == "cuda"
    assert single_machine("cpu").device.type == "cpu"
    assert process_count("auto") == torch.cuda.device_count()


@pytest.mark.parametrize("processes", [1, torch.cuda.device_count()])
def test_a_gpu_learns_rows_as_the_cpu_does(tmp_path: Path, processes: int) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    learning: dict[str, Any] = {"training": {"epochs": 5, "batch_size": 16}}
    told = {}
    for device, count in (("cpu", 1), ("auto", processes)):
        trained(run_rows, ground.job(f"teacher-{device}", "network", {"hidden": 16}), "cpu", 1)
        job = ground.job(device, "network", {"hidden": 8}, teacher=f"teacher-{device}", **learning)
        told[device] = trained(run_rows, job, device, count)  # type: ignore[arg-type]
    assert told["auto"][1] == pytest.approx(told["cpu"][1], abs=5e-3)
    weights = {device: load(weights_of(ground.job(device, "network", {"hidden": 8}))) for device in told}
    for name, value in weights["cpu"].items():
        assert torch.allclose(weights["auto"][name], value, atol=1e-3), name


@pytest.mark.parametrize("processes", [1, torch.cuda.device_count()])
def test_a_language_model_is_distilled_on_a_gpu(tmp_path: Path, processes: int) -> None:
    ground = TrainingGround(tmp_path).with_documents().with_tokenizer(generates=True)
    trained(run_language, ground.job("teacher", "llama", {}, task=TASK, training=STEPS), "auto", processes)
    learning: dict[str, Any] = {
        "teacher": "teacher",
        "hidden": {"weight": 0.5, "layers": [["model.layers.0", "model.layers.0"]]},
        "sequence": {"samples": 2, "prompt_tokens": 4, "temperature": 0.0},
    }
    report, losses = trained(
        run_language,
        ground.job("student", "llama", {"width": 32}, task=TASK, training=STEPS, **learning),
        "auto",
        processes,
    )
    assert report["kind"] == "distilled"
    assert losses[-1] < losses[0]


def test_one_gpu_goes_on_from_a_checkpoint_with_the_same_bytes(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_documents().with_tokenizer(generates=True)
    whole = ground.job("whole", "llama", {}, task=TASK, training=STEPS, every_s=0)
    trained(run_language, whole, "auto", 1)
    again = ground.job("again", "llama", {}, task=TASK, training=STEPS)
    for checkpoint in whole.checkpoints.iterdir():
        checkpoint.rename(again.checkpoints / checkpoint.name)
    _, losses = trained(run_language, again, "auto", 1)
    assert len(losses) == 1  # the last step only
    assert weights_of(again) == weights_of(whole)
