"""Offsets of clips from an expert's embeddings: a curve per clip, its sub-frame peak, and a tree that shares strength.

Model, per corpus: offset of a clip = corpus + speaker + source video + clip, each term Gaussian with a variance
measured on the sure clips (method of moments); what is read off a curve adds noise that shrinks with the number of
windows, measured by how far the two halves of clips disagree. All pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.functional import unit_rectified

NEAR = 2  # frames around a peak that are its own: windows overlap
_PIECE = 1000  # windows of a long clip compared at a time: constant memory

Array = NDArray[np.float64]


class Curve(NamedTuple):
    """How well the picture fits the sound at each offset, summed over windows so that curves add up.

    Attributes:
        total: (2, 31) sum of centred probabilities for offsets -15 … 15, of the first and the second half of the clip.
        heard: (2, 31) windows that had sound there.
    """

    total: Array
    heard: Array

    @property
    def mean(self) -> Array:
        """(31,) mean over windows; NaN where a third of them, or five, have no sound."""
        total, count = self.total.sum(0), self.heard.sum(0)
        return np.where(count >= max(5, count.max() / 3), total / np.maximum(count, 1), np.nan)

    @property
    def windows(self) -> int:
        """Windows behind it."""
        return int(self.heard.sum(0).max())


class Peak(NamedTuple):
    """Highest point of a curve.

    Attributes:
        offset: frames with a fraction, positive = audio late.
        margin: height over the best rival more than two frames away, in standard deviations of the curve elsewhere.
    """

    offset: float
    margin: float


def centred_offset_curve(audio: torch.Tensor, visual: torch.Tensor) -> Curve:
    """Compare every visual window with the audio windows around it.

    The mean of each row and column of the table of probabilities is taken off first: a window that goes well with
    everything says nothing about time.

    Args:
        audio: (W, D) embeddings before ReLU.
        visual: (W, D) embeddings before ReLU.

    Returns:
        The curve.
    """
    total, count = np.zeros((2, 2 * MAX_OFFSET + 1)), np.zeros((2, 2 * MAX_OFFSET + 1))
    windows = len(visual)
    heard, seen = unit_rectified(audio).double().numpy(), unit_rectified(visual).double().numpy()
    pieces = max(1, round(windows / _PIECE))
    for piece in range(pieces):
        begin, end = windows * piece // pieces, windows * (piece + 1) // pieces
        first, last = max(0, begin - MAX_OFFSET), min(windows, end + MAX_OFFSET)
        table = seen[begin:end] @ heard[first:last].T
        table = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        rows = np.arange(begin, end)
        for index in range(2 * MAX_OFFSET + 1):
            columns = rows + index - MAX_OFFSET
            there = (columns >= first) & (columns < last)
            values = table[rows[there] - begin, columns[there] - first]
            half = (rows[there] >= windows / 2).astype(int)
            total[:, index] += np.bincount(half, values, 2)
            count[:, index] += np.bincount(half, minlength=2)
    return Curve(total, count)


def add_curves(curves: Sequence[Curve]) -> Curve:
    """Curve of several clips that share one offset."""
    return Curve(sum(curve.total for curve in curves), sum(curve.heard for curve in curves))  # type: ignore[arg-type]


def find_peak(mean: Array) -> Peak:
    """Sub-frame maximum of a (31,) curve: the vertex of the parabola through the highest value and its neighbours.

    A maximum at the edge of what was searched, or of a curve without values, has margin 0.
    """
    known = np.isfinite(mean)
    if known.sum() < 2 * NEAR + 4:
        return Peak(0.0, 0.0)
    best = int(np.nanargmax(mean))
    if not 0 < best < len(mean) - 1 or not known[best - 1 : best + 2].all():
        return Peak(float(best - MAX_OFFSET), 0.0)
    before, here, after = mean[best - 1 : best + 2]
    bend = before - 2 * here + after
    vertex = best - MAX_OFFSET + (0.5 * (before - after) / bend if bend < 0 else 0.0)
    rest = mean[known & (np.abs(np.arange(len(mean)) - best) > NEAR)]
    spread = float(rest.std())
    return Peak(float(vertex), float((here - rest.max()) / spread) if spread > 0 else 0.0)


def halves_differ(curve: Curve) -> float:
    """Frames between the peaks of the two halves of a clip, each sought within two frames of the clip's own peak."""
    best = int(np.nanargmax(curve.mean)) if np.isfinite(curve.mean).any() else 0
    near = slice(max(0, best - NEAR), best + NEAR + 1)
    peaks = []
    for total, count in zip(curve.total, curve.heard, strict=True):
        mean = total[near] / np.maximum(count[near], 1)
        top = int(np.clip(mean.argmax(), 1, max(1, len(mean) - 2)))
        before, here, after = mean[top - 1 : top + 2]
        bend = before - 2 * here + after
        peaks.append(top + float(np.clip(0.5 * (before - after) / bend, -1, 1) if bend < 0 else 0.0))
    return peaks[1] - peaks[0]
