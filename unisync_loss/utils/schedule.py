"""Learning rate schedule: linear warm-up, then a cosine."""

from __future__ import annotations

import numpy as np


def warm_up_cosine(step: int, steps: int, warm_up: float, lowest: float = 0.01) -> float:
    """Share of the peak learning rate at a step: linear warm-up times a half cosine.

    Args:
        step: number of the step, from 0.
        steps: number of steps of the training.
        warm_up: number of steps until the warm-up factor reaches 1; 0 for none.
        lowest: lower bound of the cosine factor, which would otherwise end at 0.

    Returns:
        A number in (0, 1].
    """
    cosine = 0.5 * (1 + np.cos(np.pi * step / steps))
    return linear_warm_up(step, warm_up) * max(float(cosine), lowest)


def linear_warm_up(step: int, warm_up: float) -> float:
    """Factor in (0, 1] that grows linearly over the first ``warm_up`` steps; ``step`` counts from 0."""
    return min(1.0, (step + 1) / warm_up) if warm_up > 0 else 1.0
