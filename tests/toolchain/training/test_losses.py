"""Laws of the losses: what holds for all logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from toolchain.training.losses import IGNORED, blended, hard_loss, hidden_loss, soft_loss

pytestmark = pytest.mark.slow  # importing torch takes seconds

seeds = st.integers(0, 2**32 - 1)
temperatures = st.floats(0.25, 50)
classes = st.integers(2, 40)


def logits_from(seed: int, rows: int, width: int, *, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(
        rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@settings(deadline=None)  # torch is slow the first time
@given(seeds, classes, temperatures)
def test_the_soft_loss_is_never_negative(seed: int, width: int, temperature: float) -> None:
    student, teacher = logits_from(seed, 5, width), logits_from(seed + 1, 5, width)
    assert float(soft_loss(student, teacher, temperature)) >= -1e-12 * temperature**2


@settings(deadline=None)  # torch is slow the first time
@given(seeds, classes, temperatures, st.floats(-5, 5))
def test_it_is_zero_where_both_say_the_same(seed: int, width: int, temperature: float, shift: float) -> None:
    logits = logits_from(seed, 5, width)
    # Softmax does not see what is added to all classes.
    assert float(soft_loss(logits, logits + shift, temperature)) == pytest.approx(
        0, abs=1e-10 * temperature**2
    )


@settings(deadline=None)  # torch is slow the first time
@given(seeds, classes, temperatures)
def test_it_is_the_divergence_as_it_is_defined(seed: int, width: int, temperature: float) -> None:
    student, teacher = logits_from(seed, 4, width), logits_from(seed + 1, 4, width)
    p, q = functional.softmax(teacher / temperature, -1), functional.softmax(student / temperature, -1)
    by_hand = temperature**2 * float((p * (p.log() - q.log())).sum(-1).mean())
    assert float(soft_loss(student, teacher, temperature)) == pytest.approx(by_hand, rel=1e-9, abs=1e-9)


@settings(deadline=None)  # torch is slow the first time
@given(seeds, classes)
def test_temperature_squared_keeps_the_size_of_the_gradients(seed: int, width: int) -> None:
    # Hinton et al., equation 4: for high temperatures and centred logits d loss / d z -> (z - v) / classes.
    student, teacher = (logits_from(seed + n, 1, width) for n in (0, 1))
    student, teacher = student - student.mean(), teacher - teacher.mean()
    student.requires_grad_()
    soft_loss(student, teacher, 1000.0).backward()
    assert student.grad is not None
    expected = (student - teacher).detach() / width
    assert torch.allclose(student.grad, expected, atol=2e-2 * float(expected.abs().max()))


@settings(deadline=None)  # torch is slow the first time
@given(seeds, st.floats(0.1, 10))
def test_positions_that_do_not_count_change_nothing(seed: int, temperature: float) -> None:
    student, teacher = logits_from(seed, 6, 7).view(2, 3, 7), logits_from(seed + 1, 6, 7).view(2, 3, 7)
    counted = torch.tensor([[True, True, False], [True, False, False]])
    whole = soft_loss(student[counted], teacher[counted], temperature)
    other = torch.where(counted.unsqueeze(-1), student, torch.full_like(student, 99.0))
    assert float(soft_loss(other, teacher, temperature, counted=counted)) == pytest.approx(float(whole))


@settings(deadline=None)  # torch is slow the first time
@given(seeds, classes)
def test_the_hard_loss_leaves_ignored_labels_out(seed: int, width: int) -> None:
    logits = logits_from(seed, 4, width)
    labels = torch.tensor([0, 1, IGNORED, width - 1])
    rows = [0, 1, 3]
    expected = -functional.log_softmax(logits, -1)[rows, labels[rows]].mean()
    assert float(hard_loss(logits.view(2, 2, width), labels.view(2, 2))) == pytest.approx(float(expected))


@settings(deadline=None)  # torch is slow the first time
@given(seeds, temperatures)
def test_alpha_0_has_the_gradient_of_the_hard_loss_bit_by_bit(seed: int, temperature: float) -> None:
    labels = torch.tensor([0, 2, 1])
    gradients = []
    for blends in (False, True):
        student = logits_from(seed, 3, 5).float().requires_grad_()
        loss = hard_loss(student, labels)
        if blends:
            loss = blended(loss, soft_loss(student, logits_from(seed + 1, 3, 5).float(), temperature), 0.0)
        loss.backward()
        assert student.grad is not None
        gradients.append(student.grad)
    assert torch.equal(gradients[0], gradients[1])


@settings(deadline=None)  # torch is slow the first time
@given(seeds, st.floats(0, 1))
def test_a_blend_lies_between_its_parts(seed: int, alpha: float) -> None:
    hard, soft = (float(value) for value in logits_from(seed, 2, 1).abs())
    blend = float(blended(torch.tensor(hard), torch.tensor(soft), alpha))
    assert min(hard, soft) - 1e-5 <= blend <= max(hard, soft) + 1e-5


@settings(deadline=None)  # torch is slow the first time
@given(seeds)
def test_hidden_states_cost_their_mean_squared_distance(seed: int) -> None:
    a, b = logits_from(seed, 6, 4).view(2, 3, 4), logits_from(seed + 1, 6, 4).view(2, 3, 4)
    assert float(hidden_loss(a, a)) == 0
    assert float(hidden_loss(a, b)) == pytest.approx(float(((a - b) ** 2).mean()))
    counted = torch.tensor([[True, False, False], [False, True, True]])
    expected = float(((a - b) ** 2)[counted].mean())
    assert float(hidden_loss(a, b, counted=counted)) == pytest.approx(expected)
    assert math.isfinite(expected)
