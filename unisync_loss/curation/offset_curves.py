"""Sync over the audio offset: the curve of a clip from an expert's embeddings, and its sub-frame peak.

Axes: W windows, D embedding, K = 31 candidate offsets of -15 … 15 frames, positive = audio late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.functional import unit_rectified
from unisync_loss.utils.tensors import Array

NEAR = 2  # frames on either side that belong to a peak: windows of five frames overlap
_CHUNK = 1000  # windows of a long clip compared at a time, so that memory is constant


class Curve(NamedTuple):
    """Centred sync probability by offset, summed over windows, so that curves of clips can be added.

    Attributes:
        total: (2, K) sums over the windows of the first and of the second half of a clip.
        counts: (2, K) number of windows with audio at that offset.
    """

    total: Array
    counts: Array

    @property
    def mean(self) -> Array:
        """(K,) mean over windows; NaN where fewer than five, or fewer than a third, have audio."""
        # at the ends of a short clip a mean over a few windows would be the highest by chance
        total, count = self.total.sum(0), self.counts.sum(0)
        return np.where(count >= max(5, count.max() / 3), total / np.maximum(count, 1), np.nan)

    @property
    def windows(self) -> int:
        """Number of windows."""
        return int(self.counts.sum(0).max())


class Peak(NamedTuple):
    """Highest point of a curve.

    Attributes:
        offset: frames with a fraction, positive = audio late.
        z: height above the highest value more than two frames away, in standard deviations of the curve outside the
            peak; it is ``peak_z`` in files. Not SyncNet's confidence, which is a difference of distances.
    """

    offset: float
    z: float


def centred_offset_curve(audio: torch.Tensor, visual: torch.Tensor) -> Curve:
    """Compare every visual window with the audio windows around it.

    The mean of each row and column of the table of probabilities is subtracted first: a window that matches every other
    carries no information about time.

    Args:
        audio: (W, D) embeddings before ReLU.
        visual: (W, D) embeddings before ReLU.
    """
    offsets = 2 * MAX_OFFSET + 1
    total, count = np.zeros((2, offsets)), np.zeros((2, offsets))
    windows = len(visual)
    # float64: z divides by a deviation that is small against the sums
    audio_unit, visual_unit = unit_rectified(audio).double().numpy(), unit_rectified(visual).double().numpy()
    chunks = max(1, round(windows / _CHUNK))
    for chunk in range(chunks):
        begin, end = windows * chunk // chunks, windows * (chunk + 1) // chunks
        first, last = max(0, begin - MAX_OFFSET), min(windows, end + MAX_OFFSET)
        table = visual_unit[begin:end] @ audio_unit[first:last].T
        table = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        rows = np.arange(begin, end)
        for index in range(offsets):
            columns = rows + index - MAX_OFFSET
            valid = (columns >= first) & (columns < last)
            values = table[rows[valid] - begin, columns[valid] - first]
            half = (rows[valid] >= windows / 2).astype(int)  # of the clip, not of the chunk
            total[:, index] += np.bincount(half, values, 2)
            count[:, index] += np.bincount(half, minlength=2)
    return Curve(total, count)


def add_curves(curves: Sequence[Curve]) -> Curve:
    """Add the curves of several clips that share one offset."""
    return Curve(np.sum([curve.total for curve in curves], axis=0), np.sum([curve.counts for curve in curves], axis=0))


def find_peak(mean: Array) -> Peak:
    """Find the sub-frame maximum of a (K,) curve: vertex of the parabola through the highest value and its neighbours.

    A maximum at the edge of the range, or of a curve with too few values, has z = 0.
    """
    known = np.isfinite(mean)
    if known.sum() < 2 * NEAR + 4:  # a peak of five values, and three to compare it with
        return Peak(0.0, 0.0)
    best = int(np.nanargmax(mean))
    if not 0 < best < len(mean) - 1 or not known[best - 1 : best + 2].all():
        return Peak(float(best - MAX_OFFSET), 0.0)
    rest = mean[known & (np.abs(np.arange(len(mean)) - best) > NEAR)]
    spread = float(rest.std())
    z = float((mean[best] - rest.max()) / spread) if spread > 0 else 0.0
    return Peak(best - MAX_OFFSET + _vertex(mean, best), z)


def halves_differ(curve: Curve) -> float:
    """Frames between the peaks of the two halves of a clip, each within two frames of the peak of the whole clip."""
    best = int(np.nanargmax(curve.mean)) if np.isfinite(curve.mean).any() else 0
    near = slice(max(0, best - NEAR), best + NEAR + 1)
    peaks = []
    for total, count in zip(curve.total, curve.counts, strict=True):
        mean = total[near] / np.maximum(count[near], 1)
        top = int(np.clip(mean.argmax(), 1, max(1, len(mean) - 2)))
        peaks.append(top + float(np.clip(_vertex(mean, top), -1, 1)))  # a flat parabola has its vertex anywhere
    return peaks[1] - peaks[0]


def _vertex(values: Array, top: int) -> float:
    """Position relative to ``top`` of the vertex of the parabola through three values; 0 where they form no maximum."""
    before, here, after = values[top - 1 : top + 2]
    bend = before - 2 * here + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0
