"""Hidden units: what HuBERT learns to predict. Features of speech, put into groups by k-means.

After Hsu et al., "HuBERT", arXiv 2106.07447: first groups of MFCC with their deltas, then of the model's own features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from research.hubert_small.speech import Speech
from unisync_loss.lse import compute_mfcc
from unisync_loss.utils.progress import Progress

FIT_STEPS = 200_000  # steps that groups are fitted to; more change little
ROUNDS = 30  # of k-means


def mfcc_with_deltas(waveform: Tensor, steps: int) -> Tensor:
    """39 features a step: 13 MFCC, their slopes over ±2 steps of 10 ms, and the slopes of those.

    Args:
        waveform: (S,) at 16 kHz in [-1, 1].
        steps: HuBERT steps L; MFCC step 2 k hears the samples of HuBERT's step k, and no others.

    Returns:
        (L, 39) float32, of mean 0 and deviation 1 over the recording: rooms and microphones differ.
    """
    static = compute_mfcc(waveform * 32768)
    first = _slopes(static)
    features = torch.cat([static, first, _slopes(first)], dim=1)[::2][:steps]
    return ((features - features.mean(0)) / features.std(0, correction=0).clamp(min=1e-6)).float()


def _slopes(values: Tensor) -> Tensor:
    """Least-squares slope over five steps, (L, F); the ends are held."""
    padded = F.pad(values.T[None], (2, 2), mode="replicate")[0]
    return ((padded[:, 3:-1] - padded[:, 1:-3] + 2 * (padded[:, 4:] - padded[:, :-4])) / 10).T


def fit_groups(points: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """k-means by Lloyd's rounds from spread points; an empty group begins anew at the point that fits worst.

    Args:
        points: (N, F).
        count: of groups K, at most N.
        generator: source of chance.

    Returns:
        (K, F) centres.

    Raises:
        ValueError: for fewer points than groups.
    """
    if len(points) < count:
        raise ValueError(f"expected at least {count} steps of speech for {count} units, got {len(points)}")
    centres = _spread(points, count, generator)
    for _ in range(ROUNDS):
        group, distance = nearest(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, group, points)
        sizes = torch.bincount(group, minlength=count)
        empty = sizes == 0
        centres = sums / sizes.clamp(min=1)[:, None]
        centres[empty] = points[distance.topk(int(empty.sum())).indices]
    return centres


def _spread(points: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """Points to begin with, each drawn by its squared distance to those before (k-means++), among 20 times as many."""
    among = generator.choice(len(points), min(len(points), 20 * count), replace=False)
    pool = points[torch.from_numpy(among).to(points.device)]
    chosen = [int(generator.integers(len(pool)))]
    distance = torch.full((len(pool),), torch.inf, device=pool.device)
    while len(chosen) < count:
        distance = distance.minimum((pool - pool[chosen[-1]]).square().sum(1))
        total = distance.double().cumsum(0)
        chosen.append(int(torch.searchsorted(total, generator.random() * total[-1]).clamp(max=len(pool) - 1)))
    return pool[chosen].clone()


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest centre, (N,), and the squared distance to it less the point's own square, (N,)."""
    best = [
        (centres.square().sum(1) - 2 * piece @ centres.T).min(1)
        for piece in points.split(1 << 16)  # the table of distances stays small
    ]
    group = torch.cat([part.indices for part in best])
    return group, torch.cat([part.values for part in best]) + points.square().sum(1)


def label_speech(
    speech: Speech,
    features: Callable[[int], Tensor],
    count: int,
    generator: np.random.Generator,
    odds: NDArray[np.float64],
    log: Callable[[str], None],
) -> NDArray[np.int16]:
    """Group the steps of recordings.

    Args:
        speech: the recordings.
        features: gives those of a recording by its index, (L, F).
        count: of units, below 32768.
        generator: source of chance.
        odds: of drawing each recording to fit groups to; 0 for those held out.
        log: takes lines of progress.

    Returns:
        Unit of every step, recording after recording.

    Raises:
        ValueError: for less speech than units.
    """
    order = generator.choice(len(odds), int((odds > 0).sum()), replace=False, p=odds)
    fitted = order[: int(np.searchsorted(np.cumsum(speech.steps[order]), FIT_STEPS)) + 1]
    points = torch.cat([features(int(index)) for index in fitted])
    centres = fit_groups(points, count, generator)
    labels = []
    progress = Progress(log, len(speech.steps), "recordings assigned to units")
    for index in range(len(speech.steps)):
        labels.append(nearest(features(index), centres)[0].short().cpu().numpy())
        progress.update(index + 1)
    return np.concatenate(labels)


def perplexity(units: NDArray[np.int64] | NDArray[np.int16]) -> float:
    """How many units are in use, evenly counted: exp of the entropy of how often each occurs."""
    share = np.bincount(units) / len(units)
    return float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
