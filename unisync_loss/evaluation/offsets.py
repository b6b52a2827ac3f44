"""Offset, interval, confidence and drift of the audio from a table of windows by candidate offsets.

A table is (W, K), K = 2 M + 1: the score of visual window w against the audio window k - M later, NaN where there is no
such window; :func:`unisync_loss.functional.offset_matrix` computes it. Higher is better; positive offset = audio late.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS
from unisync_loss.evaluation.bootstrap import bootstrap_ci, percentiles, resample_weights
from unisync_loss.utils.tensors import Array

MAX_OFFSET = 15  # frames searched on either side, as SyncNet does
MIN_SHIFT = 2  # frames from a window to its negative: one frame off is right by every offset metric
TOLERANCE = 1  # frame by which an offset may be wrong and still count as right

_BLOCK = 25  # windows resampled together: neighbours share frames and syllables
_MIN_BLOCKS = 8  # a short table has shorter blocks
_DRIFT_BLOCKS = 240  # at most, so that the cost does not grow with the length
_DRIFT_SECONDS = 20.0  # below, drift and offset cannot be separated
_STEP = 0.5  # frames between two candidate lines


class Offset(NamedTuple):
    """An offset and how certain it is.

    Attributes:
        frames: of the highest mean score, positive = audio late.
        low: of the 95 % interval, a percentile bootstrap over blocks of up to a second.
        high: of the same.
        agreement: share of the bootstrap's draws within a frame of ``frames``.
        confidence: maximum minus median of the mean scores over offsets. SyncNet's confidence (``syncnet_python``,
            ``SyncNetInstance.py``) is its mirror image on distances, median minus minimum. The ``peak_z`` of ``align``
            and ``doctor`` is another quantity: by how many standard deviations a peak exceeds its best rival.
    """

    frames: int
    low: int
    high: int
    agreement: float
    confidence: float


class Drift(NamedTuple):
    """Change of the offset with time, in ms per minute, with its 95 % interval; positive = audio falls behind."""

    ms_per_minute: float
    low: float
    high: float


def offset_curve(table: Array) -> Array:
    """Mean score of every candidate offset.

    Args:
        table: (W, K).

    Returns:
        (K,); NaN where too few windows have audio at that offset, as at the ends of a short clip.
    """
    sums, counts = _sums(table)
    return _curve(sums, counts, len(table))


def find_offset(table: Array, seed: int = 0) -> Offset:
    """Estimate the offset of a whole table.

    Args:
        table: (W, K) with at least one number.
        seed: of the bootstrap.

    Returns:
        The offset.

    Raises:
        ValueError: when no window has audio.
    """
    curve = offset_curve(table)
    if np.isnan(curve).all():
        raise ValueError(f"offset: expected windows that have audio, got none in {len(table)}")
    best = int(np.nanargmax(curve))
    blocks = _blocks(table, int(np.clip(len(table) // _MIN_BLOCKS, 5, _BLOCK)))
    sums, counts = _sums(blocks.sums, blocks.counts, draws=resample_weights(len(blocks.sums), seed))
    drawn = _curve(sums, counts, len(table))
    drawn[np.isnan(drawn).all(1)] = curve  # every block of the draw was without audio
    found = np.nanargmax(drawn, axis=1)
    low, high = (round(end) - len(curve) // 2 for end in percentiles(found))
    agreement = float((np.abs(found - best) <= 1).mean())
    confidence = float(np.nanmax(curve) - np.nanmedian(curve))
    return Offset(best - len(curve) // 2, low, high, agreement, confidence)


def find_drift(table: Array, seed: int = 0) -> Drift | None:
    """Fit the straight line through the table that has the highest mean score.

    A slope through local offsets is less robust: one silent second gives an arbitrary local offset, but moves no line.

    Args:
        table: (W, K).
        seed: of the bootstrap.

    Returns:
        The drift, None for less than 20 s.
    """
    seconds = len(table) / FPS
    if seconds < _DRIFT_SECONDS or np.isnan(table).all():
        return None
    blocks = _blocks(table, max(_BLOCK, -(-len(table) // _DRIFT_BLOCKS)))
    with np.errstate(invalid="ignore"):
        means = blocks.sums / blocks.counts
    means = np.where(np.isnan(means), np.nan_to_num(np.nanmedian(means)), means)
    reach = means.shape[1] // 2
    spread = np.arange(-reach, reach + _STEP, _STEP)  # frames between begin and end, and offsets in the middle
    time = (np.arange(len(means)) + 0.5) / len(means) - 0.5
    middle, slope = (axis.ravel() for axis in np.meshgrid(spread, spread, indexing="ij"))
    position = np.clip(middle[:, None] + slope[:, None] * time + reach, 0, 2 * reach)  # (lines, blocks)
    left = np.minimum(position.astype(int), 2 * reach - 1)
    rows = np.arange(len(means))
    scores = means[rows, left] * (1 - (position - left)) + means[rows, left + 1] * (position - left)
    best = slope[scores.mean(1).argmax()]
    low, high = bootstrap_ci(lambda weights: slope[(weights @ scores.T).argmax(1)], len(means), seed=seed)
    unit = 1000 / FPS / (seconds / 60)  # frames over the table → ms per minute
    return Drift(float(best * unit), low * unit, high * unit)


def local_offsets(table: Array, windows: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Offset of each segment of a table.

    Args:
        table: (W, K).
        windows: per segment.

    Returns:
        Middle of every segment in windows, its offset in frames, and its confidence, each (n,); segments without audio
        are omitted.
    """
    blocks = _blocks(table, windows)
    curves = _curve(blocks.sums, blocks.counts, windows)
    kept = np.flatnonzero(~np.isnan(curves).all(1))
    curves = curves[kept]
    offsets = np.nanargmax(curves, axis=1) - table.shape[1] // 2 if len(kept) else np.zeros(0)
    confidence = np.nanmax(curves, axis=1) - np.nanmedian(curves, axis=1) if len(kept) else np.zeros(0)
    middles = (kept * windows + np.minimum((kept + 1) * windows, len(table))) // 2
    return middles, offsets.astype(np.float64), confidence


class _Blocks(NamedTuple):
    sums: Array  # (n, K)
    counts: Array  # (n, K)


def _blocks(table: Array, windows: int) -> _Blocks:
    starts = np.arange(0, len(table), windows)
    known = ~np.isnan(table)
    return _Blocks(
        np.add.reduceat(np.where(known, table, 0.0), starts), np.add.reduceat(known.astype(np.float64), starts)
    )


def _sums(values: Array, counts: Array | None = None, *, draws: Array | None = None) -> tuple[Array, Array]:
    """Sums and counts over all rows, or over rows drawn (R, n) times."""
    known = ~np.isnan(values)
    counts = known.astype(np.float64) if counts is None else counts
    weights = np.ones(len(values)) if draws is None else draws
    return weights @ np.where(known, values, 0.0), weights @ counts


def _curve(sums: Array, counts: Array, windows: int) -> Array:
    """Means over windows, NaN where fewer than five (in a short table, half) have audio."""
    with np.errstate(invalid="ignore"):
        return np.where(counts >= max(1, min(windows, 10) // 2), sums / counts, np.nan)
