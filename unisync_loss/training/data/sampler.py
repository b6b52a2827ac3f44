"""Random segments, pairs and face views of a set of clips, as indices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.training.data.pairs import Pairs, PairSampling, draw_pairs
from unisync_loss.utils.tensors import Array

TEMPO = (0.85, 1.18)  # range of resampled tempi: 1 / 1.18 to 1.18, as in the last stage of mel-rgb 0.1

Index = NDArray[np.int64]


class Segments(NamedTuple):
    """N segments: clip, first frame, and frames of the clip per frame of the segment; (N,) each."""

    clip: Index
    start: NDArray[Any]
    tempo: Array


class SegmentSampler:
    """Draws from clips by :func:`speaker_weights`.

    Args:
        frames: (C,) frames of each clip.
        speaker: (C,) index of its speaker.
    """

    def __init__(self, frames: Index, speaker: Index) -> None:
        self.frames, self.speaker = frames, speaker
        self.weights = speaker_weights(speaker, frames)

    def draw(
        self, rng: np.random.Generator, clips: int, segments: int, length: int, tempo_share: float = 0.0
    ) -> Segments:
        """Draw segments of different clips; those of one clip do not overlap where it is long enough.

        Args:
            rng: random generator.
            clips: clips of the batch.
            segments: segments of each.
            length: frames L of a segment.
            tempo_share: share of the clips that are drawn at a random tempo within :data:`TEMPO`.

        Returns:
            N = clips * segments segments.
        """
        chosen = rng.choice(len(self.frames), size=min(clips, len(self.frames)), replace=False, p=self.weights)
        last = self.frames[chosen] - 1
        tempo: Array = np.where(rng.random(len(chosen)) < tempo_share, rng.uniform(*TEMPO, len(chosen)), 1.0)
        tempo = np.where(last > (length - 1) * tempo, tempo, 1.0)  # a short clip may have no room for a faster tempo
        room = (last - (length - 1) * tempo)[:, None]
        step = length * tempo[:, None]  # from one segment to the next, without overlap
        apart = room - (segments - 1) * step
        places = np.sort(rng.random((len(chosen), segments)), axis=1)
        starts = np.where(apart >= 0, places * (apart + 0.999) + np.arange(segments) * step, places * (room + 0.999))
        starts = np.where(tempo[:, None] == 1, np.floor(starts), np.minimum(starts, room))
        return Segments(np.repeat(chosen, segments), starts.ravel(), np.repeat(tempo, segments))

    def draw_pairs(self, rng: np.random.Generator, sampling: PairSampling, count: int) -> Pairs:
        """Draw random pairs of single windows; see :func:`pairs.draw_pairs`."""
        return draw_pairs(sampling, self.frames, self.speaker, self.weights, count, rng)

    def draw_views(self, rng: np.random.Generator, count: int, views: int) -> tuple[Index, Index]:
        """Draw clips (count,), with repetition, and one of ``views`` face views of each (count,)."""
        clip = rng.choice(len(self.frames), size=count, p=self.weights)
        return clip, rng.integers(views, size=count)


def speaker_weights(speaker: Index, frames: Index) -> Array:
    """Sampling weights of clips (C,), sum 1: speakers by the square root of their duration, their clips by length.

    Drawn by duration alone, one speaker with 25 minutes would outweigh many with a few seconds each.
    """
    total = np.bincount(speaker, weights=frames)
    weights = np.sqrt(total[speaker]) * frames / total[speaker]
    return weights / weights.sum()
