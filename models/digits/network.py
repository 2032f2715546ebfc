"""The digits networks. Both take images of shape (batch, 1, 8, 8) with values 0 to 16 and return one
logit per digit, shape (batch, 10). Scaling to 0 … 1 is their first operation, so it ends in the exported
graph and no client has to know of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

CLASSES = 10
PIXELS = 64
WHITE = 16.0


class Scaled(nn.Module):
    """Divides pixel values by 16, then runs `body`."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(image / WHITE)
        return logits


def cnn(*, channels: int, hidden: int) -> nn.Module:
    """The teacher: two 3 × 3 convolutions of `channels` and twice as many, pooling, one hidden layer."""
    return Scaled(
        nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * channels * PIXELS // 4, hidden),
            nn.ReLU(),
            nn.Linear(hidden, CLASSES),
        )
    )


def mlp(*, hidden: Sequence[int]) -> nn.Module:
    """The student: fully connected layers of the widths in `hidden`, which int8 kernels run well."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = PIXELS
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return Scaled(nn.Sequential(*layers, nn.Linear(width, CLASSES)))
