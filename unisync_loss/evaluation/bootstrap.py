"""Bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOOTSTRAPS = 1000
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Measure:
    """Mean probability over windows with its 95 % interval (block bootstrap over time)."""

    mean: float
    low: float
    high: float
    windows: int


def bootstrap(values: NDArray[np.float64], seed: int, block: int = 10) -> Measure:
    """Mean with a 95 % interval; blocks of time are resampled, as neighbouring windows are correlated."""
    count, random = len(values), np.random.default_rng(seed)
    block = max(1, min(block, count // 3))
    starts = random.integers(0, count, (RESAMPLES, math.ceil(count / block), 1))
    picked = ((starts + np.arange(block)) % count).reshape(RESAMPLES, -1)[:, :count]
    low, high = np.quantile(values[picked].mean(axis=1), (0.025, 0.975))
    return Measure(float(values.mean()), float(low), float(high), count)
