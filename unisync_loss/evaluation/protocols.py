"""The protocols ``pairs``, ``detection`` and ``retrieval@K``, with 95 % intervals over clips.

``pairs``: each synchronised window, and the same window with audio from a random other place of its clip, at least two
frames away; balanced; at 0.5, at the checkpoint's own threshold, and as AUC. ``detection``: the negatives of ``pairs``
alone, the share called out of sync; this is Wav2Lip's "91 %" (its author, issue 111), and a model that calls everything
out of sync scores 1. ``retrieval@K``: the right offset within ±1 frame among 31, with K - 4 neighbouring windows
averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from unisync_loss.config import UniSyncConfig
from unisync_loss.evaluation.bootstrap import bootstrap_ci, ratio_ci
from unisync_loss.evaluation.embeddings import ClipEmbedding, offset_table, score_windows
from unisync_loss.evaluation.offsets import MAX_OFFSET, MIN_SHIFT, TOLERANCE, offset_curve
from unisync_loss.evaluation.results import CalibrationResult, DetectionResult, PairResult, RetrievalResult
from unisync_loss.functional import calibrated_probability
from unisync_loss.utils.tensors import Array

#: K, from one window to eleven, as in the tables of Perfect Match, AVST and VocaLiST; UniSync, Table II, quotes K = 5
RETRIEVAL_FRAMES = (5, 7, 9, 11, 13, 15)
CALIBRATION_BINS = 10  # of equally many pairs
OTHER_CLIPS = 4  # from which the cross-speaker negatives of a clip are drawn; one alone may be untypical


@dataclass(frozen=True)
class PairScores:
    """Scores of balanced pairs.

    Attributes:
        positive: (n,) probabilities of the synchronised windows.
        negative: (n,) probabilities of the same windows with other audio.
        clip: (n,) index of the clip.
        voiced: (n,) whether the window is voiced.
    """

    positive: Array
    negative: Array
    clip: NDArray[np.int64]
    voiced: NDArray[np.bool_]

    def where(self, mask: NDArray[np.bool_]) -> PairScores:
        """Select pairs."""
        return PairScores(self.positive[mask], self.negative[mask], self.clip[mask], self.voiced[mask])


def score_pairs(clips: Sequence[ClipEmbedding], seed: int) -> PairScores:
    """Draw one negative per window and score both.

    Args:
        clips: embedded clips; those of fewer than three windows have no negative and are skipped.
        seed: of the draw.

    Returns:
        Scores of balanced pairs.

    Raises:
        ValueError: when no clip is long enough.
    """
    rng = np.random.default_rng(seed)
    columns: list[tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]] = []
    for index, clip in enumerate(clips):
        windows = len(clip.visual)
        other = draw_elsewhere(windows, rng)
        rows = np.flatnonzero(other >= 0)
        right, wrong = score_windows(clip, rows, rows), score_windows(clip, rows, other[rows])
        columns.append((right, wrong, np.full(len(rows), index), clip.voiced[rows]))
    if not sum(len(column[0]) for column in columns):
        raise ValueError(f"pairs: expected clips of at least {MIN_SHIFT + 5} frames, got none")
    positive, negative, clip_index, voiced = (np.concatenate(column) for column in zip(*columns, strict=True))
    return PairScores(positive, negative, clip_index, voiced)


def draw_elsewhere(windows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw for each window another one of the clip at least MIN_SHIFT away, uniformly; -1 where there is none."""
    here = np.arange(windows)
    # windows that may be drawn on either side; the draw counts through the earlier ones, then the later ones
    before = np.maximum(here - MIN_SHIFT + 1, 0)
    after = np.maximum(windows - here - MIN_SHIFT, 0)
    total = before + after
    pick = np.floor(rng.random(windows) * total).astype(np.int64)
    return np.where(total == 0, -1, np.where(pick < before, pick, pick - before + here + MIN_SHIFT))


def area_under_curve(positive: Array, negative: Array) -> float:
    """Probability that a positive outscores a negative, ties counted half (Mann-Whitney U)."""
    order = np.sort(negative)  # by ranks: a table of all pairs would take gigabytes
    below = np.searchsorted(order, positive, side="left")
    ties = np.searchsorted(order, positive, side="right") - below
    return float((below + ties / 2).mean() / len(negative))


def accuracy_at(scores: PairScores, threshold: float) -> float:
    """Balanced accuracy of ``p > threshold``."""
    return float(((scores.positive > threshold).mean() + (scores.negative <= threshold).mean()) / 2)


def best_threshold(scores: PairScores) -> float:
    """Threshold with the highest balanced accuracy; for validation data only."""
    # every half percent of the scores: finer than the interval of an accuracy over two hundred clips, about ±0.013
    candidates = np.quantile(np.concatenate([scores.positive, scores.negative]), np.linspace(0.005, 0.995, 199))
    return float(max(candidates, key=lambda threshold: accuracy_at(scores, float(threshold))))


def fit_calibration(scores: PairScores) -> tuple[float, float]:
    """Fit temperature and midpoint of :func:`unisync_loss.functional.calibrated_probability`; for validation data only.

    Platt scaling by maximum likelihood, with his targets, which keep it finite for scores without overlap.

    Returns:
        Temperature and midpoint; (0, 0.5), which stands for no calibration, for scores that are not higher in sync.
    """
    count = len(scores.positive)
    score, in_sync = map(torch.from_numpy, _by_pair(scores))
    target = (count * in_sync + 1) / (count + 2)
    weights = torch.tensor([10.0, -10 * float(score.mean())], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(weights[0] * score + weights[1], target)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    slope, intercept = weights.tolist()
    midpoint = -intercept / slope if slope > 0 else -1.0
    return (1 / slope, midpoint) if 0 <= midpoint < 1 else (0.0, 0.5)


def choose_settings(scores: PairScores) -> dict[str, float]:
    """The fields of an expert's config that are chosen on validation data, rounded to four digits."""
    temperature, midpoint = fit_calibration(scores)
    values = {"threshold": best_threshold(scores), "temperature": temperature, "midpoint": midpoint}
    return {name: round(value, 4) for name, value in values.items()}


def calibration_of(configs: Sequence[UniSyncConfig]) -> tuple[float, float] | None:
    """Mean temperature and midpoint of experts whose scores are averaged; None if one has no calibration."""
    if not all(config.temperature for config in configs):
        return None
    return fmean(config.temperature for config in configs), fmean(config.midpoint for config in configs)


def calibration_error(probability: Array, target: Array) -> float:
    """Expected calibration error: mean distance of predicted and observed frequency over bins of equally many pairs."""
    bins = _calibration_bins(probability)
    return float(sum(abs(probability[part].sum() - target[part].sum()) for part in bins) / len(target))


def summarise_calibration(scores: PairScores, calibration: tuple[float, float], seed: int) -> CalibrationResult:
    """Calibration error of the score itself and of the calibrated probability, with interval and reliability curve.

    Args:
        scores: of balanced pairs, from other clips than the calibration.
        calibration: temperature, above 0, and midpoint.
        seed: of the interval.
    """
    score, target = _by_pair(scores)
    probability = calibrated_probability(torch.from_numpy(score), *calibration).numpy()
    bins = _calibration_bins(probability)
    # what each clip adds to each bin, so that a draw of clips, with the bins of all, is a product
    _, clip = np.unique(np.tile(scores.clip, 2), return_inverse=True)
    pairs, gap = np.bincount(clip), probability - target
    gaps = np.stack([np.bincount(clip[part], gap[part], minlength=len(pairs)) for part in bins], 1)
    interval = bootstrap_ci(lambda weights: np.abs(weights @ gaps).sum(1) / (weights @ pairs), len(pairs), seed=seed)
    return {
        "temperature": round(calibration[0], 4),
        "midpoint": round(calibration[1], 4),
        "error_of_score": round(calibration_error(score, target), 4),
        "error": round(calibration_error(probability, target), 4),
        "ci95_error": _rounded(interval),
        "predicted": [round(float(probability[part].mean()), 4) for part in bins],
        "observed": [round(float(target[part].mean()), 4) for part in bins],
    }


def _calibration_bins(probability: Array) -> list[NDArray[np.int64]]:
    """Indices of the pairs in each bin, from the lowest probability to the highest."""
    return np.array_split(np.argsort(probability, kind="stable"), CALIBRATION_BINS)


def _by_pair(scores: PairScores) -> tuple[Array, Array]:
    """Scores of positives and negatives, and 1 or 0."""
    score = np.concatenate([scores.positive, scores.negative]).astype(np.float64)
    return score, np.repeat([1.0, 0.0], len(scores.positive))


def accuracy_ci(scores: PairScores, threshold: float, seed: int) -> tuple[float, float]:
    """95 % interval over clips of :func:`accuracy_at`."""
    right = sum_by_clip(scores, scores.positive > threshold) + sum_by_clip(scores, scores.negative <= threshold)
    return ratio_ci(right, 2 * sum_by_clip(scores, np.ones(len(scores.clip))), seed=seed)


def area_ci(scores: PairScores, seed: int) -> tuple[float, float]:
    """95 % interval over clips of :func:`area_under_curve`."""
    # both sides of a pair come from the drawn clips: a clip drawn twice counts as positives and as negatives
    wins, counts = wins_by_clip(scores), sum_by_clip(scores, np.ones(len(scores.clip)))
    return bootstrap_ci(
        lambda weights: ((weights @ wins) * weights).sum(1) / (weights @ counts) ** 2, len(counts), seed=seed
    )


def sum_by_clip(scores: PairScores, values: Array | NDArray[np.bool_]) -> Array:
    """Sum of one value (n,) per pair over each clip that has pairs, (clips,)."""
    _, clip = np.unique(scores.clip, return_inverse=True)
    return np.bincount(clip, weights=values.astype(np.float64)).astype(np.float64)


def wins_by_clip(scores: PairScores) -> Array:
    """Pairs in which a positive of clip i outscores a negative of clip j, (clips, clips); a tie counts half."""
    clips, clip = np.unique(scores.clip, return_inverse=True)
    wins = np.empty((len(clips), len(clips)))
    for column in range(len(clips)):
        negative = np.sort(scores.negative[clip == column])
        below = np.searchsorted(negative, scores.positive, side="left")
        not_above = np.searchsorted(negative, scores.positive, side="right")
        wins[:, column] = np.bincount(clip, weights=(below + not_above) / 2)
    return wins


def retrieve(clip: ClipEmbedding, frames: int) -> NDArray[np.bool_]:
    """Whether the best of 31 offsets is within one frame of 0, per run of ``frames`` frames.

    Args:
        clip: embedded clip.
        frames: K, 5 or more; K - 4 neighbouring windows are averaged.

    Returns:
        (n,), one per run; empty for a clip shorter than K frames.
    """
    if len(clip.visual) < frames - 4:
        return np.zeros(0, bool)
    mean = np.lib.stride_tricks.sliding_window_view(offset_table(clip), frames - 4, axis=0).mean(-1)
    # offsets whose audio lies outside the clip cannot be chosen: short clips have fewer candidates
    return np.abs(np.where(np.isnan(mean), -np.inf, mean).argmax(1) - MAX_OFFSET) <= TOLERANCE


def estimate_offset(clip: ClipEmbedding) -> int:
    """Offset of a whole clip in frames, positive = audio late: the one of the highest mean probability among 31."""
    return int(np.nanargmax(offset_curve(offset_table(clip)))) - MAX_OFFSET


def summarise_pairs(scores: PairScores, threshold: float, seed: int) -> PairResult:
    """Accuracy at 0.5 and at the threshold, and AUC, with intervals."""
    return {
        "accuracy_at_0.5": round(accuracy_at(scores, 0.5), 4),  # the decision boundary of UniSync, section III-A
        "accuracy": round(accuracy_at(scores, threshold), 4),
        "auc": round(area_under_curve(scores.positive, scores.negative), 4),
        "threshold": round(threshold, 4),
        "n": 2 * len(scores.positive),
        "ci95": _rounded(accuracy_ci(scores, threshold, seed)),
        "ci95_accuracy_at_0.5": _rounded(accuracy_ci(scores, 0.5, seed)),
        "ci95_auc": _rounded(area_ci(scores, seed)),
    }


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]


def score_cross_pairs(clips: Sequence[ClipEmbedding], seed: int) -> PairScores | None:
    """Score every window with its own audio and with a random audio window of another speaker.

    Args:
        clips: embedded clips.
        seed: of the draw.

    Returns:
        Scores of balanced pairs, None when there is only one speaker.
    """
    rng = np.random.default_rng(seed)  # models are compared on the same pairs
    speakers = np.array([clip.entry.speaker for clip in clips])
    positive: list[Array] = []
    negative: list[Array] = []
    for clip in clips:
        candidates = np.flatnonzero(speakers != clip.entry.speaker)
        if not len(candidates):
            return None
        rows = np.arange(len(clip.visual))
        others = rng.choice(candidates, OTHER_CLIPS)
        choice = rng.integers(OTHER_CLIPS, size=len(rows))
        wrong = np.zeros(len(rows))
        for index, other in enumerate(others):
            chosen = np.flatnonzero(choice == index)
            columns = rng.integers(len(clips[other].audio), size=len(chosen))
            wrong[chosen] = score_windows(clip, chosen, columns, clips[other])
        positive.append(score_windows(clip, rows, rows))
        negative.append(wrong)
    clip_index = np.repeat(np.arange(len(clips)), [len(scores) for scores in positive])
    voiced = np.concatenate([clip.voiced for clip in clips])
    return PairScores(np.concatenate(positive), np.concatenate(negative), clip_index, voiced)


def summarise_detection(scores: PairScores, threshold: float, seed: int) -> DetectionResult:
    """Share of the negatives that are called out of sync, at 0.5 and at the threshold, with intervals."""
    counts = sum_by_clip(scores, np.ones(len(scores.clip)))
    rejected = {name: scores.negative <= value for name, value in (("at_0.5", 0.5), ("at_threshold", threshold))}
    intervals = {
        name: _rounded(ratio_ci(sum_by_clip(scores, values), counts, seed=seed)) for name, values in rejected.items()
    }
    return {
        "accuracy_at_0.5": round(float(rejected["at_0.5"].mean()), 4),
        "accuracy": round(float(rejected["at_threshold"].mean()), 4),
        "threshold": round(threshold, 4),
        "n": len(scores.negative),
        "ci95": intervals["at_threshold"],
        "ci95_accuracy_at_0.5": intervals["at_0.5"],
    }


def summarise_retrieval(clips: Sequence[ClipEmbedding], seed: int) -> dict[str, RetrievalResult]:
    """``retrieval@K`` for every K, with intervals over clips."""
    summary: dict[str, RetrievalResult] = {}
    for frames in RETRIEVAL_FRAMES:
        hits = [hit for hit in (retrieve(clip, frames) for clip in clips) if hit.size]
        if not hits:  # no clip has K frames
            continue
        right, count = (np.array(column, float) for column in zip(*((h.sum(), h.size) for h in hits), strict=True))
        summary[str(frames)] = {
            "accuracy": round(float(right.sum() / count.sum()), 4),
            "ci95": _rounded(ratio_ci(right, count, seed=seed)),
            "n": int(count.sum()),
        }
    return summary
