"""What a run minimises over its rows: labels, and a teacher if there is one. For classifiers and language
models alike: a language model is a classifier of each next token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toolchain.training.hidden import HiddenMatching, Learner
from toolchain.training.losses import blended, hard_loss, soft_loss

BATCH_ROWS = 256

# A module's logits, of shape (rows, …, classes), on the rows with these numbers.
Forward = Callable[[nn.Module, torch.Tensor], torch.Tensor]
# Something of shape (rows, …) for the rows with these numbers.
OfRows = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Teacher:
    """A trained module on the same device, in evaluation mode, and how it answers for the learner's rows.
    With `remembered` answers it is asked once for all of them, else at each step. `counted` tells which
    positions of some rows hidden states are compared at (all, without it)."""

    module: nn.Module
    forward: Forward
    temperature: float
    alpha: float
    remembered: bool
    hidden: HiddenMatching | None = None
    counted: OfRows | None = None


class Taught:
    """The objective of a run: see `toolchain.training.loop.Objective`. `forward` and `labels` tell of rows by
    their numbers."""

    def __init__(self, rows: int, forward: Forward, labels: OfRows, device: torch.device) -> None:
        self.rows = rows
        self.forward = forward
        self.device = device
        self._labels = labels
        self._teacher: Teacher | None = None
        self._answers: torch.Tensor | None = None

    def learn_from(self, teacher: Teacher) -> None:
        """Adds the teacher's part to the loss."""
        self._teacher = teacher
        if teacher.remembered:
            self._answers = answers_of(teacher.module, teacher.forward, self.rows, self.device)

    def loss(self, learner: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        """Cross entropy with the labels, blended with the divergence from the teacher's answers, plus the
        distance of hidden states."""
        rows = rows.to(self.device)
        logits = self.forward(learner, rows)
        loss = hard_loss(logits, self._labels(rows))
        teacher = self._teacher
        if teacher is None:
            return loss
        if self._answers is not None:
            answers = self._answers[rows]
        else:
            with torch.no_grad():
                answers = teacher.forward(teacher.module, rows)
        loss = blended(loss, soft_loss(logits, answers, teacher.temperature), teacher.alpha)
        if teacher.hidden is not None:
            counted = teacher.counted(rows) if teacher.counted is not None else None
            loss = loss + teacher.hidden.loss(counted=counted)
        return loss


def taught(
    model: nn.Module,
    objective: Taught,
    *,
    teacher: nn.Module,
    teacher_forward: Forward,
    distillation: Mapping[str, Any],
    remembered: bool,
    counted: OfRows | None = None,
    seed: int,
) -> Learner:
    """Has `objective` learn from `teacher` as the recipe's `distillation` says; `remembered` and `counted` as
    in `Teacher`. Returns what is to be trained: the model, with the projections of hidden-state matching
    where there are some."""
    model.to(objective.device).eval()
    teacher.to(objective.device).eval()
    hidden = None
    if distillation["hidden"] is not None:
        spec = distillation["hidden"]
        hidden = HiddenMatching(model, teacher, spec["layers"], spec["weight"])
        first = torch.zeros(1, dtype=torch.int64, device=objective.device)
        with torch.no_grad():
            objective.forward(model, first)
            teacher_forward(teacher, first)
        hidden.fit_projections(seed=seed)
    objective.learn_from(
        Teacher(
            teacher,
            teacher_forward,
            temperature=distillation["temperature"],
            alpha=distillation["alpha"],
            # Hidden states are too many to remember, and asking for them gives the answers too.
            remembered=remembered and hidden is None,
            hidden=hidden,
            counted=counted,
        )
    )
    return Learner(model, hidden.projections if hidden is not None else None)


def answers_of(module: nn.Module, forward: Forward, rows: int, device: torch.device) -> torch.Tensor:
    """The logits of all rows, in evaluation mode and without gradients."""
    module.eval()
    numbers = torch.arange(rows, device=device)
    with torch.no_grad():
        return torch.cat([forward(module, part) for part in torch.split(numbers, BATCH_ROWS)])


def accuracy(
    module: nn.Module, forward: Forward, labels: npt.NDArray[np.int64], device: torch.device
) -> float:
    """The share of rows whose largest logit is that of their label."""
    predicted = answers_of(module, forward, len(labels), device).argmax(dim=1).cpu().numpy()
    return float(np.mean(predicted == labels))
