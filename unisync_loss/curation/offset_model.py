"""Hierarchical model of audio offsets: clips of videos of speakers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisync_loss.curation.offset_curves import Array

ENOUGH = 3  # sure clips from which others are inferred


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
            **{name: math.sqrt(value) for name, value in zip(SPREADS, self.spreads, strict=True)},
        }
        return {"sure": self.size, **{name: round(value, 3) for name, value in numbers.items()}}


SPREADS = ("spread_of_clips", "spread_of_videos", "spread_of_speakers")
