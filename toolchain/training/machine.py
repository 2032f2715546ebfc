"""On what a run computes: one CPU thread, one GPU, or a share of the work of several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Device = Literal["cpu", "auto"]


@dataclass(frozen=True)
class Machine:
    """One of `processes` processes that train one model together, the one with the number `rank`.
    `accelerator` is accelerate's, where there is more than one."""

    device: torch.device
    rank: int = 0
    processes: int = 1
    accelerator: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def place(self, module: nn.Module) -> nn.Module:
        """The module where it shall compute. What the processes learn is averaged when they go back."""
        module = module.to(self.device)
        if self.accelerator is None:
            return module
        prepared: nn.Module = self.accelerator.prepare_model(module)
        return prepared

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of `loss`: of several processes, the mean of theirs."""
        if self.accelerator is None:
            torch.autograd.backward(loss)
        else:
            self.accelerator.backward(loss)

    def share(self, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
        """This process's part of a batch, and the weight of its mean loss so that the mean over processes
        of weighted losses is the batch's. A batch with fewer rows than processes leaves some a row that
        weighs nothing, since all must go back together."""
        if self.processes == 1:
            return rows, 1.0
        mine = rows[self.rank :: self.processes]
        if not len(mine):
            return rows[:1], 0.0
        return mine, len(mine) * self.processes / len(rows)

    def mean(self, value: torch.Tensor) -> float:
        """The mean of one number over the processes."""
        if self.accelerator is None:
            return float(value.detach())
        return float(self.accelerator.reduce(value.detach().reshape(1), reduction="mean")[0])


def process_count(device: Device) -> int:
    """How many processes train together: one for each GPU, if `auto` and there is one; else one."""
    return max(torch.cuda.device_count(), 1) if device == "auto" else 1


def single_machine(device: Device) -> Machine:
    """One process, on the GPU if `auto` and there is one."""
    gpu = device == "auto" and torch.cuda.is_available()
    return Machine(torch.device("cuda", 0) if gpu else torch.device("cpu"))
