"""One run of a causal language model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgeops.canonical import sha256_file
from edgeops.engines.tokenizer import TOKENIZER_FILE
from edgeops.errors import ConfigError
from toolchain.handover.arrays import load_documents
from toolchain.importing.transformer import load_model, load_tokenizer
from toolchain.training.continuation import continued
from toolchain.training.hidden import Learner
from toolchain.training.huggingface import make_model, save_folder
from toolchain.training.job import TrainingJob
from toolchain.training.machine import Machine
from toolchain.training.modules import count_parameters, make_deterministic
from toolchain.training.objectives import Forward, Taught, taught
from toolchain.training.processes import Progress
from toolchain.training.windows import token_stream, windows_of

# How much text tells a run's perplexity; variants are evaluated on more, if the recipe says so.
MAX_TOLD_TOKENS = 1 << 16
BATCH_WINDOWS = 8


def run_language(job: TrainingJob, machine: Machine, progress: Progress) -> None:
    """Trains one model for one seed. Writes `model/`, a Hugging Face folder, and `training.json` with the
    perplexity of the held-out text, which is told and never chosen by, and that of the calibration text."""
    make_deterministic()
    device = machine.device
    data, folder = job.inputs["data"], job.inputs["tokenizer"] / "tokenizer"
    tokenizer = load_tokenizer(folder)
    context = job.model["training"]["context_tokens"]
    stream = token_stream(load_documents(data, "train"), folder)
    windows = windows_of(stream, context, what="training").to(device)
    parts = {"held_out": "held-out", "calibration": "calibration"}
    others = {
        part: windows_of(
            token_stream(load_documents(data, part), folder)[: MAX_TOLD_TOKENS + 1], context, what=what
        )
        for part, what in parts.items()
    }
    model = make_model(job.model, tokenizer=tokenizer, task=job.config["task"], classes=[], seed=job.seed)
    learner = Learner(model)
    if job.distillation is None:
        objective = objective_on(windows, device)
    else:
        teacher = _load_teacher(job, folder).to(device)
        sequence = job.distillation["sequence"]
        if sequence is not None:
            progress(0.0, "the teacher writes")
            windows = torch.cat([windows, continued(teacher, windows, **sequence, seed=job.seed)])
        objective = objective_on(windows, device)
        learner = taught(
            model,
            objective,
            teacher=teacher,
            teacher_forward=objective.forward,
            distillation=job.distillation,
            # A token's logits are as many as the vocabulary: too many to remember.
            remembered=False,
            seed=job.seed,
        )
    job.fit(learner, objective, machine, progress)
    if not machine.is_first:
        return
    save_folder(model, tokenizer, job.model_folder)
    job.report(
        {
            "parameters": count_parameters(model),
            "train_tokens": len(stream),
            "perplexity": round(perplexity(model, others["held_out"].to(device)), 6),
            "calibration_perplexity": round(perplexity(model, others["calibration"].to(device)), 6),
        }
    )


def objective_on(windows: torch.Tensor, device: torch.device) -> Taught:
    """The objective of predicting each next token of the windows."""
    return Taught(len(windows), next_tokens(windows), lambda rows: windows[rows, 1:], device)


def next_tokens(windows: torch.Tensor) -> Forward:
    """A model's logits for each next token of some windows, of shape (rows, context, vocabulary)."""

    def forward(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = module(input_ids=windows[rows, :-1], use_cache=False).logits
        return logits

    return forward


def perplexity(model: nn.Module, windows: torch.Tensor) -> float:
    """`exp` of the mean negative log-likelihood (nats) of each window's tokens but its first, given those
    before it in the window."""
    model.eval()
    total = 0.0
    with torch.no_grad():
        for batch in torch.split(windows, BATCH_WINDOWS):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
            labels = batch[:, 1:].flatten()
            total += float(functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum"))
    return math.exp(total / windows[:, 1:].numel())


def _load_teacher(job: TrainingJob, folder: Path) -> Any:
    """Raises `ConfigError` if it reads tokens by another tokenizer: token by token there is then nothing to
    learn from it."""
    if sha256_file(job.teacher / TOKENIZER_FILE) != sha256_file(folder / TOKENIZER_FILE):
        raise ConfigError(
            "The teacher has another tokenizer than the student.",
            remedy="Train both on the recipe's tokenizer.",
            subject="distillation.teacher",
        )
    return load_model(job.teacher, job.config["task"])
