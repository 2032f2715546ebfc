"""Hidden-state matching on small modules."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from edgeops.errors import ConfigError
from toolchain.training.hidden import HiddenMatching, Learner

pytestmark = pytest.mark.slow  # importing torch takes seconds


def stack(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def matching(student: nn.Module, teacher: nn.Module, x: torch.Tensor, **more: int) -> HiddenMatching:
    matched = HiddenMatching(student, teacher, [("0", "0")], weight=2.0)
    student(x)
    teacher(x)
    matched.fit_projections(seed=more.get("seed", 1))
    return matched


def test_equal_layers_cost_nothing_and_need_no_projection() -> None:
    student = stack(3, 4, 2)
    x = torch.randn(5, 3)
    matched = matching(student, student, x)
    assert matched.loss().item() == 0
    assert sum(parameter.numel() for parameter in matched.projections.parameters()) == 0


def test_different_widths_are_projected_and_the_projection_is_learned() -> None:
    student, teacher, x = stack(3, 4, 2), stack(3, 7, 2), torch.randn(5, 3)
    matched = matching(student, teacher, x)
    (projection,) = matched.projections
    with torch.no_grad():
        expected = 2.0 * float((projection(student[0](x)) - teacher[0](x)).square().mean())
    assert matched.loss().item() == pytest.approx(expected, rel=1e-5)
    learner = Learner(student, matched.projections)
    assert {id(p) for p in projection.parameters()} <= {id(p) for p in learner.parameters()}
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.05)
    before = matched.loss().item()
    for _ in range(50):
        optimizer.zero_grad()
        learner(x)
        matched.loss().backward()
        optimizer.step()
    learner(x)
    assert matched.loss().item() < before / 2


def test_projections_are_drawn_from_the_seed_and_disturb_no_other_draw() -> None:
    student, teacher, x = stack(3, 4), stack(3, 5), torch.randn(2, 3)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    weights = [matching(student, teacher, x, seed=seed).projections[0].weight for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_images_are_matched_channel_by_channel() -> None:
    student, teacher = (nn.Sequential(nn.Conv2d(1, channels, 3)) for channels in (2, 6))
    matched = matching(student, teacher, torch.randn(2, 1, 5, 5))
    assert matched.projections[0].weight.shape == (6, 2)
    assert matched.loss().item() > 0


def test_positions_that_are_filled_up_do_not_count() -> None:
    student, teacher = stack(3, 4), stack(3, 4)
    x = torch.randn(2, 3, 3)
    counted = torch.tensor([[True, True, False], [True, False, False]])
    matched = matching(student, teacher, x)
    first = matched.loss(counted=counted).item()
    x[~counted] = 50.0
    student(x)
    teacher(x)
    assert matched.loss(counted=counted).item() == pytest.approx(first, rel=1e-5)
    assert matched.loss().item() > 10 * first


def test_layers_that_see_other_positions_are_refused() -> None:
    student, teacher = stack(3, 4), nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Linear(1, 4))
    matched = HiddenMatching(student, teacher, [("0", "1")], weight=1.0)
    x = torch.randn(2, 3)
    student(x)
    teacher(x)
    with pytest.raises(ConfigError, match="only the last may differ"):
        matched.fit_projections(seed=1)


def test_a_layer_that_is_missing_is_named_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match="The teacher has no layer '7'") as caught:
        HiddenMatching(stack(3, 4), stack(3, 4), [("0", "7")], weight=1.0)
    assert caught.value.remedy is not None and "0" in caught.value.remedy
