"""ABX phone discrimination of features across speakers, on synthetic speech with known phones.

After Schatz et al., "Evaluating speech features with the minimal-pair ABX task" (2013), across speakers, with the
mean over a sound instead of time warping. The speech is that of :mod:`tools.synthetic.voice`: it needs no recordings
or transcripts, is reproducible, and is easier than natural speech.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tools.synthetic.voice import Segment, random_sentence, random_voice, synthesize_voice
from unisync_loss.config import STEP_RATE

VOICES, SECONDS = 10, 12.0


class Sentence(NamedTuple):
    """Synthetic sentence: (S,) samples and the phones in them."""

    waveform: NDArray[np.float32]
    segments: list[Segment]


def draw_sentences(voices: int = VOICES, seconds: float = SECONDS) -> list[Sentence]:
    """Draw one sentence per voice; every call returns the same."""
    sentences = []
    for number in range(voices):
        rng = np.random.default_rng([3, number])
        voice = random_voice(rng)
        segments = random_sentence(rng, voice, seconds)
        sentences.append(Sentence(synthesize_voice(rng, voice, segments), segments))
    return sentences


def abx_error(sentences: list[Sentence], features: list[Tensor]) -> float:
    """Share of triples in which X is closer to B than to A.

    A and B are two phones of one voice, X is the phone of A in another voice; the distance is the cosine distance.

    Args:
        sentences: of :func:`draw_sentences`.
        features: (L, F) of each sentence, 50 steps per second.

    Returns:
        In [0, 1]; random features give 0.5.
    """
    vectors: list[Tensor] = []
    sounds: list[str] = []
    voices: list[int] = []
    for number, (sentence, steps) in enumerate(zip(sentences, features, strict=True)):
        for segment in sentence.segments:
            first = int(segment.start * STEP_RATE["hubert"])
            if segment.symbol != "_" and first < len(steps):
                last = max(first + 1, round(segment.end * STEP_RATE["hubert"]))
                vectors.append(steps[first:last].mean(0))
                sounds.append(segment.symbol)
                voices.append(number)
    table = F.normalize(torch.stack(vectors).float(), dim=1).cpu().numpy()
    return _error(table, np.array(sounds), np.array(voices))


def _error(table: NDArray[np.float32], sounds: NDArray[np.str_], voices: NDArray[np.int64]) -> float:
    """Mean over all X and all other voices of the share of that voice's pairs (A, B) that are classified wrongly."""
    likeness = table @ table.T
    shares = []
    for x, sound in enumerate(sounds):
        for voice in np.unique(voices[voices != voices[x]]):
            near = likeness[x, (voices == voice) & (sounds == sound)]
            far = likeness[x, (voices == voice) & (sounds != sound)]
            if near.size and far.size:
                shares.append(np.mean((near[:, None] < far) + 0.5 * (near[:, None] == far)))
    return float(np.mean(shares))
