"""Random pairs as the paper's Fig. 3 draws them: synchronised, same speaker, other speaker. Vectorised, no loop a pair.

A pair is a window of five frames and a window of sound. Same-speaker negatives are of one clip, with or without overlap
in time; cross-speaker negatives are of two speakers, never of one (peers.md 3.4: GeneFace's are always of one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import WINDOW_FRAMES

POSITIVE, OVERLAP, APART, CROSS = range(4)  # kinds of pairs
SHORTEST = 2 * WINDOW_FRAMES  # frames that hold two windows without overlap

Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """Proportions and distances of random pairs.

    Args:
        positive_share: of synchronised pairs among all.
        cross_share: of two speakers among the negatives.
        overlap_share: of windows that overlap in time among the same-speaker negatives.
        min_shift: frames between the windows of a same-speaker negative, at least.

    Raises:
        ValueError: for shares outside [0, 1], or a shift that leaves no overlap.
    """

    positive_share: float = 0.5
    cross_share: float = 0.2
    overlap_share: float = 0.2
    min_shift: int = 1

    def __post_init__(self) -> None:
        """Check."""
        for name in ("positive_share", "cross_share", "overlap_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], got {getattr(self, name)}")
        if not 1 <= self.min_shift < WINDOW_FRAMES:
            raise ValueError(f"min_shift: expected 1 … {WINDOW_FRAMES - 1} frames, got {self.min_shift}")

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Of positives, overlapping, apart and cross-speaker pairs among all."""
        negative = 1 - self.positive_share
        same = negative * (1 - self.cross_share)
        return (
            self.positive_share,
            same * self.overlap_share,
            same * (1 - self.overlap_share),
            negative * self.cross_share,
        )


class Pairs(NamedTuple):
    """N pairs: kind, clip and first frame of what is seen, clip and first frame of what is heard; (N,) each."""

    kind: Index
    clip: Index
    start: Index
    voice: Index
    voice_start: Index


def draw_pairs(
    plan: PairPlan,
    frames: Index,
    speaker: Index,
    odds: NDArray[np.float64],
    count: int,
    generator: np.random.Generator,
) -> Pairs:
    """Draw pairs in the plan's proportions, which hold to within a pair in every batch.

    Args:
        plan: proportions and distances.
        frames: (C,) of the clips, each at least :data:`SHORTEST`.
        speaker: (C,) index of the speaker.
        odds: (C,) of drawing each clip, sum 1.
        count: N.
        generator: source of chance.

    Returns:
        The pairs.

    Raises:
        ValueError: for clips too short, or cross-speaker pairs of a single speaker.
    """
    if frames.min() < SHORTEST:
        raise ValueError(f"pairs: expected clips of at least {SHORTEST} frames, got one of {frames.min()}")
    if plan.shares[CROSS] > 0 and (speaker == speaker[0]).all():
        raise ValueError("cross_share: expected clips of two speakers at least, got one speaker; set cross_share=0")
    places = (np.arange(count) + generator.random(count)) / count
    kind = np.searchsorted(np.cumsum(plan.shares)[:3], places, side="right")
    clip = np.searchsorted(np.cumsum(odds)[:-1], generator.random(count), side="right")
    windows = frames[clip] - WINDOW_FRAMES + 1
    shift, kind = _draw_shift(plan, kind, windows, generator)
    # both windows lie in the clip: the first start is drawn where there is room for the second
    start = np.maximum(0, -shift) + np.floor(generator.random(count) * (windows - np.abs(shift))).astype(np.int64)
    other = _other_speaker(clip, speaker, odds, generator)
    elsewhere = np.floor(generator.random(count) * (frames[other] - WINDOW_FRAMES + 1)).astype(np.int64)
    cross = kind == CROSS
    return Pairs(kind, clip, start, np.where(cross, other, clip), np.where(cross, elsewhere, start + shift))


def _draw_shift(plan: PairPlan, kind: Index, windows: Index, generator: np.random.Generator) -> tuple[Index, Index]:
    """Frames from what is seen to what is heard, 0 but for same-speaker negatives; and the kinds that came out."""
    farthest = windows - 1
    low = np.minimum(np.maximum(np.where(kind == OVERLAP, 1, WINDOW_FRAMES), plan.min_shift), farthest)
    high = np.where(kind == OVERLAP, np.maximum(np.minimum(WINDOW_FRAMES - 1, farthest), low), farthest)
    size = low + np.floor(generator.random(len(kind)) * (high - low + 1)).astype(np.int64)
    shift = np.where(generator.random(len(kind)) < 0.5, -size, size)
    same = (kind == OVERLAP) | (kind == APART)
    kind = np.where(same, np.where(size < WINDOW_FRAMES, OVERLAP, APART), kind)
    return np.where(same, shift, 0), kind


def _other_speaker(clip: Index, speaker: Index, odds: NDArray[np.float64], generator: np.random.Generator) -> Index:
    """For each clip one of another speaker, by the odds: the own speaker's block of the sum of odds is skipped."""
    order = np.argsort(speaker, kind="stable")
    total = np.cumsum(odds[order])
    first = np.searchsorted(speaker[order], speaker[clip], side="left")
    last = np.searchsorted(speaker[order], speaker[clip], side="right")
    begin, end = np.where(first > 0, total[first - 1], 0.0), total[last - 1]
    place = generator.random(len(clip)) * (total[-1] - (end - begin))
    place = np.where(place < begin, place, place + (end - begin))
    found = np.minimum(np.searchsorted(total, place, side="right"), len(order) - 1)
    # rounding must not put a pair of one speaker among those of two
    astray = (found >= first) & (found < last)
    return order[np.where(astray, np.where(first > 0, first - 1, np.minimum(last, len(order) - 1)), found)]
