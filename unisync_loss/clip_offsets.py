"""Offsets of clips from an expert's embeddings: a curve per clip, its sub-frame peak, and a tree that shares strength.

Model, per corpus: offset of a clip = corpus + speaker + source video + clip, each term Gaussian with a variance
measured on the sure clips (method of moments); what is read off a curve adds noise that shrinks with the number of
windows, measured by how far the two halves of clips disagree. All pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unisync_loss.functional import unit_rectified

REACH = 15  # frames searched on either side
NEAR = 2  # frames around a peak that are its own: windows overlap
ENOUGH = 3  # sure clips from which others are inferred
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


def offset_curve(audio: torch.Tensor, visual: torch.Tensor) -> Curve:
    """Compare every visual window with the audio windows around it.

    The mean of each row and column of the table of probabilities is taken off first: a window that goes well with
    everything says nothing about time.

    Args:
        audio: (W, D) embeddings before ReLU.
        visual: (W, D) embeddings before ReLU.

    Returns:
        The curve.
    """
    total, count = np.zeros((2, 2 * REACH + 1)), np.zeros((2, 2 * REACH + 1))
    windows = len(visual)
    heard, seen = unit_rectified(audio).double().numpy(), unit_rectified(visual).double().numpy()
    pieces = max(1, round(windows / _PIECE))
    for piece in range(pieces):
        begin, end = windows * piece // pieces, windows * (piece + 1) // pieces
        first, last = max(0, begin - REACH), min(windows, end + REACH)
        table = seen[begin:end] @ heard[first:last].T
        table = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        rows = np.arange(begin, end)
        for index in range(2 * REACH + 1):
            columns = rows + index - REACH
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
        return Peak(float(best - REACH), 0.0)
    before, here, after = mean[best - 1 : best + 2]
    bend = before - 2 * here + after
    vertex = best - REACH + (0.5 * (before - after) / bend if bend < 0 else 0.0)
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


def stand_out(values: Array, least: float = 3.0) -> NDArray[np.bool_]:
    """Values more than five robust standard deviations, and ``least`` frames, from the median of all (n,)."""
    if not values.size:
        return np.zeros(0, bool)
    away = np.abs(values - np.median(values))
    # 1.483 times the median deviation is the standard deviation of a Gaussian
    return away > max(least, 5 * 1.483 * float(np.median(away)))


def spread_between(values: Array, noise: Array, groups: NDArray[np.int64]) -> float:
    """Variance of the true values within groups, by the method of moments; at least 0.

    Args:
        values: (n,) measured.
        noise: (n,) variances of the measuring.
        groups: (n,) group of each.

    Returns:
        Variance that noise does not explain; 0 when no group has two members.
    """
    excess, freedom = 0.0, 0
    for group in np.unique(groups):
        mine = groups == group
        if mine.sum() > 1:
            excess += float(
                ((values[mine] - values[mine].mean()) ** 2).sum() - noise[mine].sum() * (1 - 1 / mine.sum())
            )
            freedom += int(mine.sum()) - 1
    return max(0.0, excess / freedom) if freedom else 0.0


def gather(values: Array, noise: Array, groups: NDArray[np.int64], spread: float) -> tuple[Array, Array]:
    """Mean of each group and its variance, members weighted by how well they are known; groups are numbered from 0."""
    weight = 1 / (noise + spread)
    total = np.bincount(groups, weight)
    return np.bincount(groups, weight * values) / total, 1 / total


def shrink(values: Array, noise: Array, parent: Array, parent_noise: Array, spread: float) -> tuple[Array, Array]:
    """Members given what is known of their groups (the backward pass of a Rauch-Tung-Striebel smoother).

    Args:
        values: (n,) as measured from below.
        noise: (n,) their variances.
        parent: (n,) final value of each one's group.
        parent_noise: (n,) its variance.
        spread: variance of members within groups.

    Returns:
        Final values and variances.
    """
    trust = noise / (noise + spread)
    return values + trust * (parent - values), trust * spread + trust**2 * parent_noise


class OffsetTree:
    """Sure clips of a corpus: clips in videos, videos in speakers, speakers in the corpus; smoothed up and down.

    Attributes:
        clips: final values and variances.
        spreads: variances of clips within videos, of videos within speakers, of speakers.
    """

    def __init__(self, values: Array, noise: Array, videos: list[str], speakers: list[str]) -> None:
        """Fit to (n,) values with variances ``noise``, and the name of each one's video and speaker."""
        self.size = len(values)
        self.spreads = (0.0, 0.0, 0.0)
        self.clips: tuple[Array, Array] = (values, noise)
        if not self.size:
            return
        _, first, of_clip = np.unique(videos, return_index=True, return_inverse=True)
        self._speakers, of_video = np.unique(np.array(speakers)[first], return_inverse=True)
        self._counts = np.bincount(of_video[of_clip], minlength=len(self._speakers))
        top = np.zeros(len(self._speakers), np.int64)
        within = spread_between(values, noise, of_clip)
        video = gather(values, noise, of_clip, within)
        between = spread_between(*video, of_video)
        speaker = gather(*video, of_video, between)
        among = spread_between(*speaker, top)
        self._corpus = gather(*speaker, top, among)
        self.spreads = (within, between, among)
        self._speaker = shrink(*speaker, self._corpus[0][top], self._corpus[1][top], among)
        final = shrink(*video, self._speaker[0][of_video], self._speaker[1][of_video], between)
        self.clips = shrink(values, noise, final[0][of_clip], final[1][of_clip], within)

    def infer(self, speaker: str) -> tuple[str, float, float]:
        """Level, value and variance for a clip that tells nothing itself; infinite variance where nothing is known."""
        within, between, among = self.spreads
        if self.size < ENOUGH:
            return "none", 0.0, math.inf
        place = np.flatnonzero(self._speakers == speaker)
        if place.size and self._counts[place[0]] >= ENOUGH:
            value, variance = self._speaker[0][place[0]], self._speaker[1][place[0]]
            return "speaker", float(value), float(variance + between + within)
        return "corpus", float(self._corpus[0][0]), float(self._corpus[1][0] + among + between + within)

    def facts(self) -> dict[str, float]:
        """What is known of the corpus."""
        if not self.size:
            return {}
        numbers = {
            "zero": float(self._corpus[0][0]),
            "sd": math.sqrt(self._corpus[1][0]),
            **{name: math.sqrt(value) for name, value in zip(_SPREADS, self.spreads, strict=True)},
        }
        return {"sure": self.size, **{name: round(value, 3) for name, value in numbers.items()}}


_SPREADS = ("spread_of_clips", "spread_of_videos", "spread_of_speakers")
