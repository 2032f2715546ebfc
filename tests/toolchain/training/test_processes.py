"""Several processes that train one model together, over Gloo as they would over NCCL."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from edgeops.errors import ConfigError
from edgeops_testkit.training import TrainingGround, weights_of
from toolchain.training.job import TrainingJob
from toolchain.training.machine import Machine
from toolchain.training.processes import Progress, launch
from toolchain.training.run_rows import run_rows

pytestmark = pytest.mark.slow  # importing torch takes seconds


def refuse(job: TrainingJob, machine: Machine, progress: Progress) -> None:
    """A run that fails in its second process, while the first one waits for it."""
    if machine.rank == 1:
        raise ConfigError(
            "No.", remedy="Ask again.", subject="refuse", details={"processes": machine.processes}
        )
    progress(0.5, "waiting")
    machine.accelerator.wait_for_everyone()


def losses_of(notes: list[str]) -> list[float]:
    return [float(note.rpartition(" ")[2]) for note in notes]


def test_two_processes_learn_what_one_learns_with_the_whole_batch(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    learning: dict[str, Any] = {"training": {"epochs": 3, "batch_size": 13}}
    trained, losses = {}, {}
    for count in (1, 2):
        job = ground.job(f"by-{count}", "network", {"hidden": 8}, every_s=0, **learning)
        notes: list[str] = []
        launch(
            run_rows,
            job,
            device="cpu",
            processes=count,
            progress=lambda _share, note, notes=notes: notes.append(note),
        )
        trained[count], losses[count] = load(weights_of(job)), losses_of(notes)
        assert len(list(job.checkpoints.iterdir())) == 1
    assert len(losses[1]) == 15  # 60 rows in batches of 13: the last of each epoch is smaller
    assert losses[2] == pytest.approx(losses[1], abs=2e-3)
    for name, value in trained[1].items():
        assert torch.allclose(trained[2][name], value, atol=1e-4), name


def test_what_one_process_refuses_is_raised_and_the_others_end(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    notes: list[str] = []
    with pytest.raises(ConfigError, match=r"No\.") as caught:
        launch(
            refuse,
            ground.job("refused", "network", {"hidden": 2}),
            device="cpu",
            processes=2,
            progress=lambda _share, note: notes.append(note),
        )
    assert caught.value.details == {"processes": 2}
    assert caught.value.remedy == "Ask again."
    assert notes == ["waiting"]


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_the_shares_of_a_batch_make_up_its_mean(rows: int, processes: int) -> None:
    batch = torch.arange(rows) * 10
    shares = [Machine(torch.device("cpu"), rank, processes).share(batch) for rank in range(processes)]
    mean = sum(float(part.double().mean()) * weight for part, weight in shares) / processes
    assert mean == pytest.approx(float(batch.double().mean()))
    assert all(len(part) for part, _ in shares)
