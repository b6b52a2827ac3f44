"""Hierarchical model of audio offsets: clips of videos of speakers of a corpus.

The offset of a clip is the sum of a corpus, a speaker, a source video and a clip term, each Gaussian with a variance
estimated by the method of moments from the clips with a confident peak. A measured peak adds noise whose variance is
inversely proportional to the number of windows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unisync_loss.utils.tensors import Array

ENOUGH = 3  # confident clips of a speaker, or of a corpus, from which the offsets of others are inferred
SPREADS = ("spread_of_clips", "spread_of_videos", "spread_of_speakers")


def outliers(values: Array, least: float = 3.0) -> NDArray[np.bool_]:
    """Mark the values (n,) that are more than five robust standard deviations, and ``least`` frames, off the median."""
    if not values.size:
        return np.zeros(0, bool)
    deviations = np.abs(values - np.median(values))
    # 1.483 times the median deviation is the standard deviation of a Gaussian
    return deviations > max(least, 5 * 1.483 * float(np.median(deviations)))


def spread_between(values: Array, noise: Array, groups: NDArray[np.int64]) -> float:
    """Estimate the variance of the true values within groups by the method of moments; at least 0.

    Args:
        values: (n,) measured.
        noise: (n,) variances of the measurement noise.
        groups: (n,) group of each.

    Returns:
        The variance that noise does not explain; 0 when no group has two members.
    """
    excess, freedom = 0.0, 0
    for group in np.unique(groups):
        mine = groups == group
        if mine.sum() > 1:
            excess += float(
                # of n noisy values around their own mean, noise alone explains (1 - 1 / n) of its sum
                ((values[mine] - values[mine].mean()) ** 2).sum() - noise[mine].sum() * (1 - 1 / mine.sum())
            )
            freedom += int(mine.sum()) - 1
    return max(0.0, excess / freedom) if freedom else 0.0  # the moment estimator may be negative


def group_means(values: Array, noise: Array, groups: NDArray[np.int64], spread: float) -> tuple[Array, Array]:
    """Mean of each group and its variance, members weighted by inverse variance; groups are numbered from 0."""
    weight = 1 / (noise + spread)
    total = np.bincount(groups, weight)
    return np.bincount(groups, weight * values) / total, 1 / total


def shrink(values: Array, noise: Array, parent: Array, parent_noise: Array, spread: float) -> tuple[Array, Array]:
    """Posterior of members given their groups (the backward pass of a Rauch-Tung-Striebel smoother, 1965).

    Args:
        values: (n,) estimated from the members alone.
        noise: (n,) their variances.
        parent: (n,) posterior mean of the group of each.
        parent_noise: (n,) its variance.
        spread: variance of members within groups.

    Returns:
        Posterior means and variances, (n,) each.
    """
    trust = noise / (noise + spread)  # in the parent: 0 for an exact measurement, 1 where members do not differ
    return values + trust * (parent - values), trust * spread + trust**2 * parent_noise


class OffsetTree:
    """Posterior offsets of the confident clips of a corpus, by one pass up and one pass down the hierarchy.

    Args:
        values: (n,) measured offsets in frames.
        noise: (n,) variances of the measurement noise.
        videos: name of the source video of each clip.
        speakers: name of the speaker of each clip.

    Attributes:
        clips: posterior means and variances, (n,) each.
        spreads: variances of clips within videos, of videos within speakers, of speakers.
    """

    def __init__(self, values: Array, noise: Array, videos: list[str], speakers: list[str]) -> None:
        self.size = len(values)
        self.spreads = (0.0, 0.0, 0.0)
        self.clips: tuple[Array, Array] = (values, noise)
        if not self.size:
            return
        # one pass up: clips to videos, videos to speakers, speakers to the corpus
        _, first, of_clip = np.unique(videos, return_index=True, return_inverse=True)
        self._speakers, of_video = np.unique(np.array(speakers)[first], return_inverse=True)
        self._counts = np.bincount(of_video[of_clip], minlength=len(self._speakers))
        top = np.zeros(len(self._speakers), np.int64)
        within = spread_between(values, noise, of_clip)
        video = group_means(values, noise, of_clip, within)
        between = spread_between(*video, of_video)
        speaker = group_means(*video, of_video, between)
        among = spread_between(*speaker, top)
        self._corpus = group_means(*speaker, top, among)
        self.spreads = (within, between, among)
        # one pass down: every level is drawn towards the one above
        self._speaker = shrink(*speaker, self._corpus[0][top], self._corpus[1][top], among)
        video = shrink(*video, self._speaker[0][of_video], self._speaker[1][of_video], between)
        self.clips = shrink(values, noise, video[0][of_clip], video[1][of_clip], within)

    def infer(self, speaker: str) -> tuple[str, float, float]:
        """Predict the offset of a clip without a confident peak.

        Returns:
            Level (``speaker``, ``corpus`` or ``none``), value and variance; infinite variance for fewer than three
            confident clips.
        """
        within, between, among = self.spreads
        if self.size < ENOUGH:
            return "none", 0.0, math.inf
        known = np.flatnonzero(self._speakers == speaker)
        if known.size and self._counts[known[0]] >= ENOUGH:
            value, variance = self._speaker[0][known[0]], self._speaker[1][known[0]]
            return "speaker", float(value), float(variance + between + within)
        return "corpus", float(self._corpus[0][0]), float(self._corpus[1][0] + among + between + within)

    def facts(self) -> dict[str, float]:
        """Return the reference offset of the corpus (``zero``, ± ``sd``), the spreads and the number of clips.

        Empty without a confident clip. All in frames.
        """
        if not self.size:
            return {}
        numbers = {
            "zero": float(self._corpus[0][0]),
            "sd": math.sqrt(self._corpus[1][0]),
            **{name: math.sqrt(value) for name, value in zip(SPREADS, self.spreads, strict=True)},
        }
        return {"sure": self.size, **{name: round(value, 3) for name, value in numbers.items()}}
