"""One training run: what the three training steps have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeops.canonical import canonical_json
from toolchain.handover.context import StepContext
from toolchain.training.checkpoints import EVERY_S, Checkpoints
from toolchain.training.loop import Objective, Regime, train
from toolchain.training.machine import Machine
from toolchain.training.processes import Progress, Run, launch

MODEL_FOLDER = "model"
TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class TrainingJob:
    """One run of one model: `config` is the step's, `inputs` are the folders of the steps before it, by role.
    It pickles, since each process of a run gets one."""

    config: Mapping[str, Any]
    inputs: Mapping[str, Path]
    out: Path
    checkpoints: Path
    checkpoint_every_s: float = EVERY_S

    @property
    def seed(self) -> int:
        """What everything random in the run is drawn from."""
        seed: int = self.config["seed"]
        return seed

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's part of the recipe."""
        model: Mapping[str, Any] = self.config["model"]
        return model

    @property
    def distillation(self) -> Mapping[str, Any] | None:
        """How it learns from its teacher, or None: alone."""
        distillation: Mapping[str, Any] | None = self.config["distillation"]
        return distillation

    @property
    def teacher(self) -> Path:
        """The folder of the teacher's model."""
        return self.inputs["teacher"] / MODEL_FOLDER

    @property
    def model_folder(self) -> Path:
        """Where the trained model goes. It is made."""
        folder = self.out / MODEL_FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def read_classes(self) -> list[str]:
        """The names of the data's classes."""
        classes: list[str] = json.loads((self.inputs["data"] / "data.json").read_bytes())["classes"]
        return classes

    def fit(self, learner: nn.Module, objective: Objective, machine: Machine, progress: Progress) -> None:
        """Trains `learner` in place as the recipe says, from the run's last checkpoint on. Raises as `train`
        and `Regime.of` do."""
        train(
            learner,
            objective,
            Regime.of(self.model["training"], rows=objective.rows, seed=self.seed),
            machine=machine,
            checkpoints=Checkpoints(self.checkpoints, every_s=self.checkpoint_every_s),
            progress=progress,
        )

    def report(self, figures: Mapping[str, Any]) -> None:
        """Writes `training.json`: the figures, the seed and the kind of the run."""
        kind = "alone" if self.distillation is None else "distilled"
        told = {**figures, "seed": self.seed, "kind": kind, "source": self.model["source"]}
        (self.out / TRAINING_FILE).write_bytes(canonical_json(told))


def run_job(run: Run[TrainingJob], context: StepContext) -> None:
    """Runs the step's training where its recipe says: on one CPU thread, or on all GPUs."""
    job = TrainingJob(context.config, context.inputs, context.out, context.checkpoints)
    launch(run, job, device=job.model["training"]["device"], progress=context.progress)
