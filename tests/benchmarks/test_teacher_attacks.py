"""`benchmarks/teacher_attacks.py` on a linear objective, whose best perturbation is known."""

import sys

import pytest
import torch
from helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from teacher_attacks import gradient_of, pool, projected_descent, signed_step

RADIUS = 8 / 255
SHAPE = (2, 5, 3, 16, 16)


@pytest.fixture
def weight():
    return torch.randn(SHAPE)


@pytest.fixture
def objective(weight):
    return lambda video: (weight * video).sum()


def generator():
    return torch.Generator().manual_seed(1)


def gain(objective, perturbed, video):
    return (objective(perturbed) - objective(video)).item()


def test_gradient(objective, weight):
    assert torch.equal(gradient_of(objective, torch.rand(SHAPE)), weight)


def test_a_step_gains_the_radius_times_the_sum_of_the_gradient(objective, weight):
    video = torch.full(SHAPE, 0.5)
    perturbed = signed_step(video, weight, RADIUS)
    assert gain(objective, perturbed, video) == pytest.approx(RADIUS * weight.abs().sum().item(), rel=1e-4)


def test_ten_steps_reach_the_corner_of_the_ball(objective, weight):
    video = torch.full(SHAPE, 0.5)
    perturbed = projected_descent(objective, video, RADIUS, generator())
    assert torch.allclose(perturbed, signed_step(video, weight, RADIUS), atol=1e-6)


def test_blocks_gain_the_radius_times_the_sum_over_blocks(objective, weight):
    video = torch.full(SHAPE, 0.5)
    perturbed = projected_descent(objective, video, RADIUS, generator(), block=8)
    expected = RADIUS * 64 * pool(weight, 8).abs().sum().item()
    assert gain(objective, perturbed, video) == pytest.approx(expected, rel=1e-4)
    change = perturbed - video
    assert torch.equal(change[..., 1:8, 1:8], change[..., :1, :1].expand(*SHAPE[:3], 7, 7))


def test_frames_stay_in_the_ball_and_in_the_range(objective, weight):
    video = torch.rand(SHAPE).round()  # black and white
    for perturbed in (signed_step(video, weight, RADIUS), projected_descent(objective, video, RADIUS, generator())):
        assert 0 <= perturbed.min() <= perturbed.max() <= 1
        assert (perturbed - video).abs().max() <= RADIUS + 1e-6
        assert gain(objective, perturbed, video) == pytest.approx(
            RADIUS * weight.where((weight > 0) == (video == 0), 0).abs().sum().item(), rel=1e-3
        )
