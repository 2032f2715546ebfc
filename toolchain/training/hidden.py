"""Hidden-state matching: the student's layers against the teacher's, caught by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from edgeops.errors import ConfigError
from toolchain.training.losses import hidden_loss

Pairs = Sequence[tuple[str, str]]


class Taps:
    """Keeps what the named layers of a module last put out. Of a tuple, as Hugging Face's layers return it,
    the first part counts."""

    def __init__(self, module: nn.Module, names: Sequence[str], *, whose: str) -> None:
        """Raises `ConfigError` naming a layer that `module`, the `whose` model, does not have."""
        self.values: dict[str, torch.Tensor] = {}
        layers = dict(module.named_modules())
        for name in names:
            if name not in layers or not name:
                near = [layer for layer in layers if layer.rpartition(".")[2] == name.rpartition(".")[2]]
                raise ConfigError(
                    f"The {whose} has no layer {name!r}.",
                    remedy=f"Name one of its modules, such as {', '.join(near[:3] or list(layers)[1:4])}.",
                    subject="distillation.hidden.layers",
                )
            layers[name].register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            # Images have their channels second; a layer's width stands last here.
            self.values[name] = value.movedim(1, -1) if value.dim() > 3 else value

        return hook


class HiddenMatching:
    """The hidden part of a distillation. `projections` are learned with the student (see `Learner`): linear
    maps from its width to the teacher's, where they differ."""

    def __init__(self, student: nn.Module, teacher: nn.Module, pairs: Pairs, weight: float) -> None:
        self.pairs = list(pairs)
        self.weight = weight
        self._student = Taps(student, [pair[0] for pair in pairs], whose="student")
        self._teacher = Taps(teacher, [pair[1] for pair in pairs], whose="teacher")
        self.projections = nn.ModuleList()

    def fit_projections(self, *, seed: int) -> None:
        """Makes the projections, once both models have seen one batch. Their weights are drawn from `seed`,
        without touching the generator that everything else draws from.

        Raises `ConfigError` if a pair's outputs differ in more than their width.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for ours, theirs in self.pairs:
                student, teacher = self._student.values[ours], self._teacher.values[theirs]
                if student.shape[:-1] != teacher.shape[:-1]:
                    raise ConfigError(
                        f"{ours!r} of the student puts out {tuple(student.shape[1:])} a row and {theirs!r} "
                        f"of the teacher {tuple(teacher.shape[1:])}: only the last may differ.",
                        remedy="Match layers that see the same positions.",
                        subject="distillation.hidden.layers",
                    )
                widths = student.shape[-1], teacher.shape[-1]
                same = widths[0] == widths[1]
                self.projections.append(nn.Identity() if same else nn.Linear(*widths, bias=False))

    def loss(self, *, counted: torch.Tensor | None = None) -> torch.Tensor:
        """The weighted mean over the pairs of their mean squared error, on the batch that both models saw
        last. `counted`, bool of shape (rows, positions), narrows it in layers that put out that many
        positions."""
        losses = []
        for projection, (ours, theirs) in zip(self.projections, self.pairs, strict=True):
            student, teacher = projection(self._student.values[ours]), self._teacher.values[theirs]
            narrows = counted is not None and counted.shape == student.shape[:-1]
            losses.append(hidden_loss(student, teacher, counted=counted if narrows else None))
        return self.weight * torch.stack(losses).mean()


class Learner(nn.Module):
    """What a run learns: the model, and the projections of hidden-state matching, which do not ship."""

    def __init__(self, model: nn.Module, projections: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.projections = projections if projections is not None else nn.ModuleList()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own answer."""
        return self.model(*args, **kwargs)
