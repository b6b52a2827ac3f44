"""AdamW that decays matrices only, and a running average of the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def adamw(
    parameters: Iterable[Tensor], rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW with decay of weights with more than one axis only."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=betas)


@torch.no_grad()
def update_average(average: nn.Module, learner: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards the learner's; ``step`` counts from 1 and lets a young average follow closely."""
    # without this it would remember the random start
    decay = min(decay, step / (step + 10))
    for mean, value in zip(average.state_dict().values(), learner.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
