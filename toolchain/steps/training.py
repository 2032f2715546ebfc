"""Training a classifier, with or without a teacher. One thread and fixed seeds give the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeops.errors import ConfigError
from toolchain.steps.arrays import Array, load_arrays, save_arrays
from toolchain.steps.context import load_factory

WEIGHTS_FILE = "weights.npz"


@dataclass(frozen=True)
class Distillation:
    """The teacher's logits on the training rows, shape (rows, classes), and how they count."""

    logits: torch.Tensor
    temperature: float
    alpha: float


def make_deterministic() -> None:
    """One thread: sums in one order. Torch refuses what has no deterministic kernel (`RuntimeError`)."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def build(source: Mapping[str, Any], *, seed: int) -> nn.Module:
    """The network that `source` (`factory`, `options`) describes, with weights drawn from `seed`."""
    torch.manual_seed(seed)
    module = load_factory(source["factory"])(**source["options"])
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{source['factory']} does not return a torch module.",
            remedy="Correct the factory in the recipe.",
            subject=source["factory"],
        )
    return module


def train(
    module: nn.Module,
    inputs: Array,
    labels: Array,
    training: Mapping[str, Any],
    *,
    seed: int,
    distillation: Distillation | None = None,
    progress: Callable[[float], None],
) -> None:
    """Trains `module` in place on rows of float32 inputs and int64 labels.

    The loss is cross entropy, or with a teacher (Hinton, Vinyals and Dean, arXiv:1503.02531, section 2)
    `(1 - alpha) * CE + alpha * T^2 * KL(teacher at T || student at T)`: T^2 keeps the gradients' scale.
    """
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    batch_size, epochs = training["batch_size"], training["epochs"]
    optimizer = torch.optim.Adam(module.parameters(), lr=training["learning_rate"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=training["learning_rate"], total_steps=epochs * -(-len(x) // batch_size)
    )
    shuffle = torch.Generator().manual_seed(seed)
    module.train()
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(len(x), generator=shuffle), batch_size):
            logits = module(x[rows])
            loss = functional.cross_entropy(logits, y[rows])
            if distillation is not None:
                loss = _distilled(loss, logits, distillation, rows)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        progress((epoch + 1) / epochs)
    module.eval()


def logits_of(module: nn.Module, inputs: Array) -> torch.Tensor:
    """The module's logits on rows of inputs, without gradients."""
    module.eval()
    with torch.no_grad():
        logits: torch.Tensor = module(torch.from_numpy(inputs))
    return logits


def accuracy(module: nn.Module, inputs: Array, labels: Array) -> float:
    """The share of rows whose largest logit is the label's."""
    predicted = logits_of(module, inputs).argmax(dim=1).numpy()
    return round(float(np.mean(predicted == labels)), 6)


def save_weights(module: nn.Module, folder: Path) -> None:
    """Writes the weights by name."""
    save_arrays(folder / WEIGHTS_FILE, {name: value.numpy() for name, value in module.state_dict().items()})


def load_weights(module: nn.Module, folder: Path) -> None:
    """Reads them into a module of the same shape (else torch raises `RuntimeError`)."""
    arrays = load_arrays(folder / WEIGHTS_FILE)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    module.eval()


def _distilled(
    hard: torch.Tensor, logits: torch.Tensor, distillation: Distillation, rows: torch.Tensor
) -> torch.Tensor:
    t, alpha = distillation.temperature, distillation.alpha
    soft = functional.kl_div(
        functional.log_softmax(logits / t, dim=1),
        functional.log_softmax(distillation.logits[rows] / t, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - alpha) * hard + alpha * t * t * soft
