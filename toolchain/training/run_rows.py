"""One run of a torch module on rows of numbers."""

from __future__ import annotations

import torch
from torch import nn

from toolchain.evaluation.parting import load_choosing_part
from toolchain.handover.arrays import Array, load_part
from toolchain.training.hidden import Learner
from toolchain.training.job import TrainingJob
from toolchain.training.machine import Machine
from toolchain.training.modules import (
    WEIGHTS_FILE,
    build,
    count_parameters,
    load_weights,
    make_deterministic,
    save_weights,
)
from toolchain.training.objectives import Forward, Taught, accuracy, taught
from toolchain.training.processes import Progress
from toolchain.training.selection import kept_rows


def run_rows(job: TrainingJob, machine: Machine, progress: Progress) -> None:
    """Trains one model for one seed. Writes `model/weights.safetensors`, and `training.json` with the
    accuracy on the held-out rows, which is told and never chosen by, and that on the calibration rows that
    choose (see toolchain/evaluation/parting.py)."""
    make_deterministic()
    device = machine.device
    inputs, labels = load_part(job.inputs["data"], "train")
    keep = kept_rows(labels, job.model["class_share"], job.read_classes())
    x, y = torch.from_numpy(inputs[keep]).to(device), torch.from_numpy(labels[keep]).to(device)
    objective = Taught(len(y), _on(x), lambda rows: y[rows], device)
    model = build(job.model, seed=job.seed)
    learner = Learner(model)
    if job.distillation is not None:
        teacher = build(job.config["teacher"], seed=0)
        load_weights(teacher, job.teacher / WEIGHTS_FILE)
        learner = taught(
            model,
            objective,
            teacher=teacher,
            teacher_forward=objective.forward,
            distillation=job.distillation,
            remembered=True,
            seed=job.seed,
        )
    job.fit(learner, objective, machine, progress)
    if not machine.is_first:
        return
    save_weights(model, job.model_folder / WEIGHTS_FILE)

    def accuracy_on(rows: Array, truth: Array) -> float:
        return round(accuracy(model, _on(torch.from_numpy(rows).to(device)), truth, device), 6)

    job.report(
        {
            "parameters": count_parameters(model),
            "train_rows": objective.rows,
            "accuracy": accuracy_on(*load_part(job.inputs["data"], "held_out")),
            "calibration_accuracy": accuracy_on(*load_choosing_part(job.inputs["data"])),
        }
    )


def _on(inputs: torch.Tensor) -> Forward:
    def forward(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = module(inputs[rows])
        return logits

    return forward
