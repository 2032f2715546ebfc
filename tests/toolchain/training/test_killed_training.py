"""A training that is killed, several times, ends with the bytes of one that was not."""

import shutil
from pathlib import Path

import pytest

from edgeops_testkit.training import TrainingGround, start_training, weights_of
from toolchain.training.job import TrainingJob
from toolchain.training.machine import single_machine
from toolchain.training.run_language import run_language
from toolchain.training.run_rows import run_rows

pytestmark = pytest.mark.slow  # importing torch takes seconds

ROWS = "toolchain.training.run_rows:run_rows"
LANGUAGE = "toolchain.training.run_language:run_language"
KILLED_AFTER_LINES = (4, 9, 1)


def killed_and_finished(job: TrainingJob, run: str) -> list[str]:
    """Kills the training after some lines of progress, again and again, then lets it end. Returns the first
    line that each process but the first one printed."""
    first_lines = []
    for lines in (*KILLED_AFTER_LINES, None):
        with start_training(job, run) as process:
            assert process.stdout is not None
            printed = []
            for line in process.stdout:
                printed.append(line)
                if lines is not None and len(printed) == lines:
                    process.kill()
                    break
            process.stdout.close()
            returned = process.wait(timeout=120)
        first_lines.append(printed[0])
        assert returned == (0 if lines is None else -9)
    return first_lines[1:]


def step_in(line: str) -> int:
    """The number in `step 12 of 40, loss …`."""
    return int(line.split()[1])


def test_a_killed_distillation_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    teacher = ground.job("teacher", "network", {"hidden": 8})
    run_rows(teacher, single_machine("cpu"), lambda _share, _note: None)
    options = {"hidden": 4, "dropout": 0.3}
    learning = {"teacher": "teacher", "hidden": {"weight": 0.5, "layers": [["0", "0"]]}}
    whole = ground.job("whole", "network", options, training={"epochs": 4}, **learning)
    run_rows(whole, single_machine("cpu"), lambda _share, _note: None)

    killed = ground.job("killed", "network", options, training={"epochs": 4}, every_s=0, **learning)
    first_lines = killed_and_finished(killed, ROWS)

    # It did go on: no process began at the first step again.
    assert all(step_in(line) > 1 for line in first_lines)
    assert step_in(first_lines[-1]) > step_in(first_lines[0])
    assert weights_of(killed) == weights_of(whole)
    assert (killed.out / "training.json").read_bytes() == (whole.out / "training.json").read_bytes()


def test_a_killed_language_model_ends_with_the_same_bytes(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_documents().with_tokenizer(generates=True)
    training = {"steps": 30, "context_tokens": 16, "batch_size": 2}
    whole, killed = (
        ground.job(name, "llama", {}, task="text-generation", training=training, every_s=every_s)
        for name, every_s in (("whole", 1e9), ("killed", 0))
    )
    run_language(whole, single_machine("cpu"), lambda _share, _note: None)
    first_lines = killed_and_finished(killed, LANGUAGE)
    assert all(step_in(line) > 1 for line in first_lines)
    assert weights_of(killed) == weights_of(whole)


def test_a_damaged_checkpoint_counts_for_nothing(tmp_path: Path) -> None:
    ground = TrainingGround(tmp_path).with_rows()
    whole = ground.job("whole", "network", {"hidden": 4}, every_s=0)
    steps: list[str] = []
    run_rows(whole, single_machine("cpu"), lambda _share, note: steps.append(note))
    (checkpoint,) = whole.checkpoints.iterdir()

    damaged = ground.job("damaged", "network", {"hidden": 4})
    data = bytearray(checkpoint.read_bytes())
    data[-5] ^= 1
    (damaged.checkpoints / checkpoint.name).write_bytes(data)
    again: list[str] = []
    run_rows(damaged, single_machine("cpu"), lambda _share, note: again.append(note))
    assert again == steps
    assert weights_of(damaged) == weights_of(whole)

    sound = ground.job("sound", "network", {"hidden": 4})
    shutil.copy(checkpoint, sound.checkpoints)
    run_rows(sound, single_machine("cpu"), lambda _share, note: again.append(note))
    assert again[len(steps) :] == steps[-1:]
    assert weights_of(sound) == weights_of(whole)
