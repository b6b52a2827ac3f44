"""Random crops of recordings, and recordings of held-out speakers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from research.audio_students.speech import Speech
from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.training.data.sampler import speaker_weights

HELD_OUT = 0.05  # share of the speakers, of those with no more than the mean share of speech


class Places(NamedTuple):
    """Crops of equal length: recordings (B,), first frames (B,), and the number of frames."""

    recording: NDArray[np.int64]
    start: NDArray[np.int64]
    frames: int


class CropDrawer:
    """Sampler of batches of crops of equal length, so that nothing is padded.

    Args:
        speech: recordings.
        held: (N,) recordings that are never drawn.
        seconds: shortest and longest crop; a shorter recording makes all crops of its batch as short.
    """

    def __init__(self, speech: Speech, held: NDArray[np.bool_], seconds: tuple[float, float]) -> None:
        self.speech, self.seconds = speech, seconds
        self._weights = np.where(held, 0.0, speaker_weights(speech.speaker, speech.frames))

    def draw(self, generator: np.random.Generator, seconds: float) -> Places:
        """Draw a batch of ``seconds``: the first recording and a random length set the length of all crops."""
        length = self.speech.frames
        first = self._choose(generator, self._weights, 1)[0]
        frames = min(round(generator.uniform(*self.seconds) * FPS), int(length[first]))
        count = max(1, round(seconds * FPS / frames))
        chosen = self._choose(generator, np.where(length >= frames, self._weights, 0.0), count)
        start = np.floor(generator.random(count) * (length[chosen] - frames + 1)).astype(np.int64)
        return Places(chosen, start, frames)

    @staticmethod
    def _choose(generator: np.random.Generator, weights: NDArray[np.float64], count: int) -> NDArray[np.int64]:
        return generator.choice(len(weights), count, p=weights / weights.sum())

    def waveforms(self, places: Places) -> Tensor:
        """(B, 640 T) as recorded, in [-1, 1]."""
        first = torch.from_numpy(self.speech.first[places.recording] + places.start * SAMPLES_PER_FRAME)
        return self.speech.samples[first[:, None] + torch.arange(places.frames * SAMPLES_PER_FRAME)].float() / 32768


def hold_out(speaker: NDArray[np.int64], length: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose the held-out recordings: those of a twentieth of the speakers, none with more speech than average.

    Raises:
        ValueError: for fewer than two speakers.
    """
    total = np.bincount(speaker, weights=length)
    if len(total) < 2:
        raise ValueError(f"expected at least two speakers, one to be held out, got {len(total)}")
    short = np.flatnonzero(total <= total.mean())
    chosen = np.random.default_rng([seed, 7]).permutation(short)[: max(1, round(HELD_OUT * len(total)))]
    return np.isin(speaker, chosen[: len(total) - 1])
