"""Bounded perturbations of frames that raise an objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

STEPS = 10
STEP = 0.25  # of the radius: ten steps cross the ball even from its far side

#: maps frames (B, T, 3, H, W) to the scalar that the attacker raises
Objective = Callable[[Tensor], Tensor]


def gradient_of(objective: Objective, video: Tensor) -> Tensor:
    """Gradient of an objective at frames (B, T, 3, H, W), same shape."""
    video = video.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(video), video)
    return gradient


def signed_step(video: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """One signed-gradient step (FGSM, arXiv 1412.6572) from the frames, kept in [0, 1]."""
    return (video + radius * gradient.sign()).clamp(0, 1)


def projected_descent(
    objective: Objective, video: Tensor, radius: float, generator: torch.Generator, *, block: int = 1
) -> Tensor:
    """Projected gradient attack with a random start (PGD, arXiv 1706.06083), ten steps.

    Args:
        objective: raised within the L∞ ball.
        video: (B, T, 3, H, W) in [0, 1].
        radius: of the ball.
        generator: of the start.
        block: side in pixels of the blocks on which the perturbation is constant; 1 leaves every pixel free.

    Returns:
        The perturbed frames, in [0, 1].
    """
    shape = (*video.shape[:3], video.shape[3] // block, video.shape[4] // block)
    delta = (2 * torch.rand(shape, generator=generator) - 1) * radius
    for _ in range(STEPS):
        # the gradient at the clamped frames: that of the clamp is 0 for black and white pixels, which could not move
        gradient = pool(gradient_of(objective, _perturbed(video, delta, block)), block)
        delta = (delta + STEP * radius * gradient.sign()).clamp(-radius, radius)
    return _perturbed(video, delta, block)


def pool(video: Tensor, block: int) -> Tensor:
    """Mean of every ``block`` x ``block`` pixels: (B, T, C, H, W) → (B, T, C, H / block, W / block)."""
    pooled = F.avg_pool2d(rearrange(video, "b t c h w -> (b t) c h w"), block)
    return rearrange(pooled, "(b t) c h w -> b t c h w", b=len(video))


def _perturbed(video: Tensor, delta: Tensor, block: int) -> Tensor:
    return (video + repeat(delta, "b t c h w -> b t c (h i) (w j)", i=block, j=block)).clamp(0, 1)
