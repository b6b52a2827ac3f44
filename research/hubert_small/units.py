"""Hidden units that HuBERT learns to predict: k-means clusters of speech features.

After Hsu et al., "HuBERT", arXiv 2106.07447: clusters of MFCC with their deltas first, then of the model's features.
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

FIT_STEPS = 200_000  # steps used to fit the clusters; more change little
ROUNDS = 30  # of k-means


def mfcc_with_deltas(waveform: Tensor, steps: int) -> Tensor:
    """39 features per step: 13 MFCC, their slopes over ±2 steps of 10 ms, and the slopes of those.

    Args:
        waveform: (S,) at 16 kHz in [-1, 1].
        steps: HuBERT steps L; MFCC step 2k covers exactly the samples of HuBERT step k.

    Returns:
        (L, 39) float32, with mean 0 and standard deviation 1 over the recording, because rooms and microphones differ.
    """
    static = compute_mfcc(waveform * 32768)
    first = _slopes(static)
    features = torch.cat([static, first, _slopes(first)], dim=1)[::2][:steps]
    return ((features - features.mean(0)) / features.std(0, correction=0).clamp(min=1e-6)).float()


def _slopes(values: Tensor) -> Tensor:
    """Least-squares slope over five steps, (L, F); the end values are repeated."""
    padded = F.pad(values.T[None], (2, 2), mode="replicate")[0]
    return ((padded[:, 3:-1] - padded[:, 1:-3] + 2 * (padded[:, 4:] - padded[:, :-4])) / 10).T


def fit_groups(points: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """k-means by Lloyd's algorithm from spread points; an empty cluster restarts at the point with the worst fit.

    Args:
        points: (N, F).
        count: number of clusters K, at most N.
        generator: random generator.

    Returns:
        (K, F) centres.

    Raises:
        ValueError: for fewer points than clusters.
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
    """Initial points (k-means++): drawn by squared distance to the previous ones, from 20 times as many."""
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
    """Index of the nearest centre, (N,), and the squared distance to it minus the squared norm of the point, (N,)."""
    best = [
        (centres.square().sum(1) - 2 * piece @ centres.T).min(1)
        for piece in points.split(1 << 16)  # keeps the distance table small
    ]
    group = torch.cat([part.indices for part in best])
    return group, torch.cat([part.values for part in best]) + points.square().sum(1)


def label_speech(
    speech: Speech,
    features: Callable[[int], Tensor],
    count: int,
    generator: np.random.Generator,
    sampling_weights: NDArray[np.float64],
    log: Callable[[str], None],
) -> NDArray[np.int16]:
    """Assign the steps of recordings to units.

    Args:
        speech: the recordings.
        features: returns the features (L, F) of the recording with an index.
        count: number of units, below 32768.
        generator: random generator.
        sampling_weights: weight of each recording when fitting clusters; 0 for held-out ones.
        log: called with lines of progress.

    Returns:
        Unit of every step, recording after recording.

    Raises:
        ValueError: for less speech than units.
    """
    order = generator.choice(
        len(sampling_weights), int((sampling_weights > 0).sum()), replace=False, p=sampling_weights
    )
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
    """Effective number of units in use: exp of the entropy of their frequencies."""
    share = np.bincount(units) / len(units)
    return float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum()))
