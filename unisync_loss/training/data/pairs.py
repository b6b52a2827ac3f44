"""Random pairs as the paper's Fig. 3 draws them: synchronised, same speaker, other speaker; vectorised.

A pair is a visual and an audio window of five frames. Same-speaker negatives are of one clip, with or without overlap
in time; cross-speaker negatives are of two speakers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.utils.tensors import Array

POSITIVE, NEAR, FAR, CROSS = range(4)  # kinds of pairs; NEAR windows overlap in time, FAR ones do not
SHORTEST = 2 * WINDOW_FRAMES  # frames that hold two windows without overlap

Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairSampling:
    """Proportions and distances of random pairs.

    Args:
        positive_share: share of synchronised pairs among all.
        cross_share: share of pairs of two speakers among the negatives; the paper's best is 0.2.
        overlap_share: share of windows that overlap in time among the same-speaker negatives.
        min_shift: frames between the windows of a same-speaker negative, at least.

    Raises:
        ValueError: for shares outside [0, 1], or a shift that leaves no overlap.
    """

    positive_share: float = 0.5  # as Wav2Lip's color_syncnet_train.py
    cross_share: float = 0.2  # the best of UniSync, Table V
    overlap_share: float = 0.2  # the paper names no share; negatives drawn freely overlap in 16 % of a 50-frame clip
    min_shift: int = 1  # as Wav2Lip, which draws any other frame

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("positive_share", "cross_share", "overlap_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"recipe.{name}: expected a share in [0, 1], got {getattr(self, name)}")
        if not 1 <= self.min_shift < WINDOW_FRAMES:
            raise ValueError(f"recipe.min_shift: expected 1 … {WINDOW_FRAMES - 1} frames, got {self.min_shift}")

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Shares of positive, near, far and cross-speaker pairs among all."""
        negative = 1 - self.positive_share
        same = negative * (1 - self.cross_share)
        return (
            self.positive_share,
            same * self.overlap_share,
            same * (1 - self.overlap_share),
            negative * self.cross_share,
        )


class Pairs(NamedTuple):
    """N pairs: kind, clip and first frame of the visual window, the same of the audio window; (N,) each."""

    kind: Index
    clip: Index
    start: Index
    audio_clip: Index
    audio_start: Index


def draw_pairs(
    sampling: PairSampling, frames: Index, speaker: Index, weights: Array, count: int, rng: np.random.Generator
) -> Pairs:
    """Draw pairs in given proportions, which hold to within one pair in every batch.

    Args:
        sampling: proportions and distances.
        frames: (C,) of the clips, each at least :data:`SHORTEST`.
        speaker: (C,) index of the speaker.
        weights: (C,) sampling weights of the clips, sum 1.
        count: N.
        rng: random generator.

    Raises:
        ValueError: for clips that are too short, or cross-speaker pairs of a single speaker.
    """
    if frames.min() < SHORTEST:
        raise ValueError(f"pairs: expected clips of at least {SHORTEST} frames, got one of {frames.min()}")
    if sampling.shares[CROSS] > 0 and (speaker == speaker[0]).all():
        raise ValueError(
            "recipe.cross_share: expected clips of two speakers at least, got one; set recipe.cross_share=0"
        )
    # stratified: one draw in each of N equal intervals keeps the proportions in every batch
    places = (np.arange(count) + rng.random(count)) / count
    kind = np.searchsorted(np.cumsum(sampling.shares)[:3], places, side="right")
    clip = np.searchsorted(np.cumsum(weights)[:-1], rng.random(count), side="right")
    windows = frames[clip] - WINDOW_FRAMES + 1
    shift, kind = _draw_shift(sampling, kind, windows, rng)
    # both windows lie in the clip: the first start is drawn where there is room for the second
    start = np.maximum(0, -shift) + np.floor(rng.random(count) * (windows - np.abs(shift))).astype(np.int64)
    other = _other_speaker(clip, speaker, weights, rng)
    other_start = np.floor(rng.random(count) * (frames[other] - WINDOW_FRAMES + 1)).astype(np.int64)
    cross = kind == CROSS
    return Pairs(kind, clip, start, np.where(cross, other, clip), np.where(cross, other_start, start + shift))


def _draw_shift(sampling: PairSampling, kind: Index, windows: Index, rng: np.random.Generator) -> tuple[Index, Index]:
    """Frames from the visual to the audio window, 0 except for same-speaker negatives; and the resulting kinds.

    A clip too short for a far pair gives a near one.
    """
    farthest = windows - 1
    low = np.minimum(np.maximum(np.where(kind == NEAR, 1, WINDOW_FRAMES), sampling.min_shift), farthest)
    high = np.where(kind == NEAR, np.maximum(np.minimum(WINDOW_FRAMES - 1, farthest), low), farthest)
    size = low + np.floor(rng.random(len(kind)) * (high - low + 1)).astype(np.int64)
    shift = np.where(rng.random(len(kind)) < 0.5, -size, size)
    same = (kind == NEAR) | (kind == FAR)
    kind = np.where(same, np.where(size < WINDOW_FRAMES, NEAR, FAR), kind)
    return np.where(same, shift, 0), kind


def _other_speaker(clip: Index, speaker: Index, weights: Array, rng: np.random.Generator) -> Index:
    """For each clip one of another speaker, by weight: the speaker's own block of the cumulative sum is skipped."""
    order = np.argsort(speaker, kind="stable")
    total = np.cumsum(weights[order])
    first = np.searchsorted(speaker[order], speaker[clip], side="left")
    last = np.searchsorted(speaker[order], speaker[clip], side="right")
    begin, end = np.where(first > 0, total[first - 1], 0.0), total[last - 1]
    place = rng.random(len(clip)) * (total[-1] - (end - begin))
    place = np.where(place < begin, place, place + (end - begin))
    found = np.minimum(np.searchsorted(total, place, side="right"), len(order) - 1)
    # rounding at the block's borders could pick the speaker itself: step out of the block
    inside = (found >= first) & (found < last)
    return order[np.where(inside, np.where(first > 0, first - 1, np.minimum(last, len(order) - 1)), found)]
