"""One run of a torch module on rows of numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from toolchain.steps.arrays import load_part
from toolchain.training.hidden import Learner
from toolchain.training.job import TrainingJob
from toolchain.training.loop import Progress, Regime, train
from toolchain.training.machine import Machine
from toolchain.training.modules import (
    WEIGHTS_FILE,
    build,
    count_parameters,
    load_weights,
    make_deterministic,
    save_weights,
)
from toolchain.training.objectives import Forward, Taught, answers_of, taught
from toolchain.training.selection import kept_rows


def run_rows(job: TrainingJob, machine: Machine, progress: Progress) -> None:
    """Trains one model for one seed. Writes `model/weights.safetensors`, and `training.json` with the
    accuracy on the held-out rows: it is told, never chosen by."""
    make_deterministic()
    device = machine.device
    inputs, labels = load_part(job.inputs["data"], "train")
    keep = kept_rows(labels, job.model["class_share"], job.read_classes())
    x, y = torch.from_numpy(inputs[keep]).to(device), torch.from_numpy(labels[keep]).to(device)
    forward = _on(x)
    objective = Taught(len(y), forward, lambda rows: y[rows], device)
    model = build(job.model, seed=job.seed)
    learner = Learner(model)
    if job.distillation is not None:
        teacher = build(job.config["teacher"], seed=0)
        load_weights(teacher, job.teacher / WEIGHTS_FILE)
        learner = taught(
            model,
            objective,
            forward=forward,
            teacher=teacher,
            teacher_forward=forward,
            distillation=job.distillation,
            remembered=True,
            counted=None,
            device=device,
            seed=job.seed,
        )
    train(
        learner,
        objective,
        Regime.of(job.model["training"], rows=len(y), seed=job.seed),
        machine=machine,
        checkpoints=job.open_checkpoints(),
        progress=progress,
    )
    if not machine.is_first:
        return
    save_weights(model, job.model_folder / WEIGHTS_FILE)
    held_out, truth = load_part(job.inputs["data"], "held_out")
    answers = answers_of(model, _on(torch.from_numpy(held_out).to(device)), len(held_out), device)
    predicted = answers.argmax(dim=1).cpu().numpy()
    job.report(
        {
            "parameters": count_parameters(model),
            "train_rows": len(y),
            "accuracy": round(float(np.mean(predicted == truth)), 6),
        }
    )


def _on(inputs: torch.Tensor) -> Forward:
    def forward(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = module(inputs[rows])
        return logits

    return forward
