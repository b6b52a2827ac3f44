"""Percentile bootstrap of every interval: whole groups (clips, blocks of time, pairs) are resampled.

Windows of a clip share frames and syllables, so they are not independent; a bootstrap over windows would give intervals
that are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unisync_loss.utils.tensors import Array

DRAWS = 1000  # of every interval

#: maps weights (R, n), how often each of n groups counts, to the statistic (R,) of each row
Statistic = Callable[[Array], Array]


def resample_weights(groups: int, seed: int = 0) -> Array:
    """How often each group is drawn, (DRAWS, groups); each row sums to ``groups``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), DRAWS).astype(np.float64)


def bootstrap_ci(statistic: Statistic, groups: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a statistic of independent groups.

    Args:
        statistic: of weighted groups; NaN where it is undefined, which the interval ignores. The mean of ``values``
            (n,), for example, is ``lambda weights: weights @ values / weights.sum(1)``.
        groups: their number n.
        seed: of the resampling.

    Returns:
        The 2.5th and 97.5th percentile over :data:`DRAWS` resamples.

    Raises:
        ValueError: when there is no group.
    """
    if groups < 1:
        raise ValueError(f"bootstrap: expected at least one group, got {groups}")
    return percentiles(statistic(resample_weights(groups, seed)))


def percentiles(drawn: Array) -> tuple[float, float]:
    """2.5th and 97.5th percentile of a statistic's resamples (R,), NaN ignored."""
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def mean_ci(values: Array, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of one value (n,) per group; NaN stands for a group without a value."""
    return ratio_ci(np.nan_to_num(values), (~np.isnan(values)).astype(np.float64), seed=seed)


def ratio_ci(sums: Array, counts: Array, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of ``sums.sum() / counts.sum()``, both (n,), one entry per group."""

    def ratio(weights: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ sums) / (weights @ counts))

    return bootstrap_ci(ratio, len(sums), seed=seed)


def block_mean_ci(values: Array, block: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of a time series (n,), resampled in blocks of ``block`` or fewer values.

    A series shorter than three blocks is cut into three.
    """
    starts = np.arange(0, len(values), max(1, min(block, len(values) // 3)))
    counts = np.diff(starts, append=len(values)).astype(np.float64)
    return ratio_ci(np.add.reduceat(values, starts), counts, seed=seed)
