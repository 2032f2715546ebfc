"""The training loop, one for every kind of model.

What happens at a step follows from the seed and the step's number alone, so a run that was killed goes on
from its last checkpoint and ends with the bytes of one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from edgeops.errors import ArtifactError, ConfigError
from toolchain.training.checkpoints import Checkpoint, Checkpoints
from toolchain.training.machine import Machine
from toolchain.training.processes import Progress

_WEIGHTS, _OPTIMIZER = "weights.", "optimizer."


class Objective(Protocol):
    """What is learned: rows, and the loss on some of them."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    def loss(self, learner: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        """The mean loss over the rows with these numbers (int64)."""


@dataclass(frozen=True)
class Regime:
    """How long and how fast to learn. The numbers do not depend on how many processes share a batch."""

    batch_size: int
    learning_rate: float
    weight_decay: float
    steps: int
    seed: int

    @classmethod
    def of(cls, training: Mapping[str, Any], *, rows: int, seed: int) -> Regime:
        """From the recipe's `training`: its `epochs` over that many rows, or its `steps`.

        Raises `ConfigError` unless there is exactly one of the two.
        """
        epochs, steps = training["epochs"], training["steps"]
        if (epochs is None) == (steps is None):
            raise ConfigError(
                "A training needs either epochs or steps.",
                remedy="Give one of them in the recipe.",
                subject="training",
            )
        batch_size = training["batch_size"]
        return cls(
            batch_size=batch_size,
            learning_rate=training["learning_rate"],
            weight_decay=training["weight_decay"],
            steps=steps if steps is not None else epochs * -(-rows // batch_size),
            seed=seed,
        )


def train(
    learner: nn.Module,
    objective: Objective,
    regime: Regime,
    *,
    machine: Machine,
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    """Trains `learner` in place, by AdamW (Loshchilov and Hutter, arXiv:1711.05101; Adam without weight
    decay) with a one-cycle learning rate, and leaves it in evaluation mode.

    Raises `ArtifactError` when the loss is no longer finite.
    """
    placed = machine.place(learner)
    optimizer = torch.optim.AdamW(
        learner.parameters(), lr=regime.learning_rate, weight_decay=regime.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=regime.learning_rate, total_steps=regime.steps
    )
    done = _resume(checkpoints.latest(), learner, optimizer, schedule)
    placed.train()
    told = -1
    batches = islice(_batches(objective.rows, regime), done, regime.steps)
    for step, batch in enumerate(batches, start=done):
        torch.manual_seed(_step_seed(regime.seed, step, machine.rank))
        rows, weight = machine.share(batch)
        loss = objective.loss(placed, rows)
        optimizer.zero_grad()
        machine.backward(loss * weight if weight != 1 else loss)
        optimizer.step()
        if step + 1 < regime.steps:
            schedule.step()
        percent = 100 * (step + 1) // regime.steps
        if percent != told:
            told = percent
            _report(machine.mean(loss * weight), step + 1, regime, progress)
        if machine.is_first and step + 1 < regime.steps and checkpoints.due():
            checkpoints.save(_checkpoint(step + 1, learner, optimizer, schedule))
    placed.eval()


def _batches(rows: int, regime: Regime) -> Iterator[torch.Tensor]:
    """Batches of row numbers without end: each row once, in an order drawn from the seed, then again."""
    generator = torch.Generator().manual_seed(regime.seed)
    while True:
        yield from torch.split(torch.randperm(rows, generator=generator), regime.batch_size)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """What dropout and the like draw from at a step. Mixed, since neighbouring seeds of a generator need not
    give independent numbers."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint32)[0])


def _report(loss: float, step: int, regime: Regime, progress: Progress) -> None:
    if not np.isfinite(loss):
        raise ArtifactError(
            f"The training diverged: at step {step} of {regime.steps} the loss is {loss}.",
            remedy="Lower the learning rate in the recipe.",
            subject="training.learning_rate",
            details={"step": step},
        )
    progress(step / regime.steps, f"step {step} of {regime.steps}, loss {loss:.3f}")


def _checkpoint(
    step: int,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> Checkpoint:
    tensors = {_WEIGHTS + name: value for name, value in learner.state_dict().items()}
    moments = optimizer.state_dict()
    for parameter, values in moments["state"].items():
        tensors |= {f"{_OPTIMIZER}{parameter}.{name}": value for name, value in values.items()}
    state = {"step": step, "groups": moments["param_groups"], "schedule": schedule.state_dict()}
    # Tied weights stand there under each of their names, as tensors of their own.
    return Checkpoint({name: value.clone() for name, value in tensors.items()}, state)


def _resume(
    checkpoint: Checkpoint | None,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    """Puts a checkpoint back. Returns the number of steps done."""
    if checkpoint is None:
        return 0
    learner.load_state_dict(_below(checkpoint.tensors, _WEIGHTS))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _below(checkpoint.tensors, _OPTIMIZER).items():
        parameter, _, moment = name.partition(".")
        moments.setdefault(int(parameter), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": checkpoint.state["groups"]})
    schedule.load_state_dict(dict(checkpoint.state["schedule"]))
    return int(checkpoint.state["step"])


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
