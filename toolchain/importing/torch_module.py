"""What a torch module gives on rows, and whether that is what its task needs."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeops.errors import ArtifactError
from toolchain.handover.arrays import Array

BATCH_ROWS = 256


def answers_of(module: nn.Module, inputs: Array, task: str) -> Array:
    """What the exported graph has to give on rows of inputs, float32: probabilities of shape (rows, classes),
    or for feature extraction the module's vectors as they are."""
    module.eval()
    with torch.no_grad():
        starts = range(0, len(inputs), BATCH_ROWS)
        output = torch.cat([module(torch.from_numpy(inputs[i : i + BATCH_ROWS])) for i in starts])
        if task != "feature-extraction":
            output = torch.softmax(output, dim=-1)
    answers: Array = output.numpy().astype(np.float32)
    return answers


def check_answers(answers: Array, rows: int, classes: int, task: str, factory: str) -> None:
    """Whether a module gave what its task needs: a number for each class, or for feature extraction a vector.
    Raises `ArtifactError` (subject: `factory`)."""
    vectors = task == "feature-extraction"
    if answers.ndim != 2 or len(answers) != rows or not (vectors or answers.shape[1] == classes):
        wanted = "a vector" if vectors else f"a logit for each of the {classes} classes of the data"
        raise ArtifactError(
            f"{factory} returns shape {answers.shape[1:]} a row, and {wanted} is needed.",
            remedy="Correct the network's last layer.",
            subject=factory,
        )
    if not np.all(np.isfinite(answers)):
        raise ArtifactError(
            f"{factory} returns numbers that are not finite for rows of the data.",
            remedy="Look at its weights, and at how it takes nulls (NaN) in the data.",
            subject=factory,
        )
