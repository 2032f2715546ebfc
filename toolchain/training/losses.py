"""What is minimised: pure functions of tensors.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2, for
the soft part; Romero et al., "FitNets", arXiv:1412.6550, equation 3, for hidden states.
"""

from __future__ import annotations

import torch
from torch.nn import functional

# The label of a position that does not count, as in torch's cross entropy and in Hugging Face's models.
IGNORED = -100


def hard_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats. `logits` of shape (…, classes), `labels` int64 of the shape before that;
    positions labelled `IGNORED` do not count."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def soft_loss(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float,
    *,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """`T^2 * KL(teacher at T || student at T)` in nats, the mean over positions. Both of shape (…, classes);
    `counted`, bool of the shape before that, tells which positions count (all, without it).

    At least 0, and 0 where both give the same distribution. T^2 keeps the gradients' size: for high
    temperatures and centred logits it nears half the squared distance of the logits over the classes.
    """
    student = functional.log_softmax(logits.flatten(0, -2) / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.flatten(0, -2) / temperature, dim=-1)
    if counted is not None:
        rows = counted.flatten()
        student, teacher = student[rows], teacher[rows]
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature * temperature * divergence


def blended(hard: torch.Tensor, soft: torch.Tensor, alpha: float) -> torch.Tensor:
    """`(1 - alpha) * hard + alpha * soft`. With `alpha` 0 its gradient is that of `hard`, bit by bit."""
    return (1 - alpha) * hard + alpha * soft


def hidden_loss(
    student: torch.Tensor, teacher: torch.Tensor, *, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean squared error of two tensors of shape (…, width), over the positions that are `counted`."""
    difference = (student - teacher).square()
    return difference.mean() if counted is None else difference[counted].mean()
