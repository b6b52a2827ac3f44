"""Protocols pairs, retrieval@K and detection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisync_loss.evaluation.bootstrap import BOOTSTRAPS
from unisync_loss.evaluation.embeddings import ClipEmbedding, offset_table, score_windows
from unisync_loss.evaluation.offsets import MAX_OFFSET, offset_curve
from unisync_loss.utils.tensors import Array

MIN_SHIFT = 2  # frames: one frame off is right by every offset metric
TOLERANCE = 1  # frame


@dataclass(frozen=True)
class PairScores:
    """Scores of balanced pairs.

    Attributes:
        positive: (n,) probabilities of the synchronised windows.
        negative: (n,) of the same windows with audio from elsewhere in the clip.
        clip: (n,) index of the clip.
        voiced: (n,) whether the window has a voice in it.
    """

    positive: Array
    negative: Array
    clip: NDArray[np.int64]
    voiced: NDArray[np.bool_]

    def where(self, mask: NDArray[np.bool_]) -> PairScores:
        """Select pairs."""
        return PairScores(self.positive[mask], self.negative[mask], self.clip[mask], self.voiced[mask])


def score_pairs(clips: Sequence[ClipEmbedding], seed: int) -> PairScores:
    """Draw one negative for every window and score both.

    Args:
        clips: embedded clips; those of fewer than three windows have no negative and are left out.
        seed: of the draw.

    Returns:
        Scores of balanced pairs.

    Raises:
        ValueError: when no clip is long enough.
    """
    generator = np.random.default_rng(seed)
    columns: list[tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]] = []
    for index, clip in enumerate(clips):
        windows = len(clip.visual)
        other = draw_elsewhere(windows, generator)
        rows = np.flatnonzero(other >= 0)
        right, wrong = score_windows(clip, rows, rows), score_windows(clip, rows, other[rows])
        columns.append((right, wrong, np.full(len(rows), index), clip.voiced[rows]))
    if not sum(len(column[0]) for column in columns):
        raise ValueError(f"pairs: expected clips of at least {MIN_SHIFT + 5} frames, got none")
    positive, negative, clip_index, voiced = (np.concatenate(column) for column in zip(*columns, strict=True))
    return PairScores(positive, negative, clip_index, voiced)


def draw_elsewhere(windows: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """For each window another one at least MIN_SHIFT away, uniformly; -1 where there is none."""
    here = np.arange(windows)
    before = np.maximum(here - MIN_SHIFT + 1, 0)
    after = np.maximum(windows - here - MIN_SHIFT, 0)
    total = before + after
    pick = np.floor(generator.random(windows) * total).astype(np.int64)
    return np.where(total == 0, -1, np.where(pick < before, pick, pick - before + here + MIN_SHIFT))


def area_under_curve(positive: Array, negative: Array) -> float:
    """Probability that a positive outscores a negative, ties counted half (Mann-Whitney)."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, side="left")
    ties = np.searchsorted(order, positive, side="right") - below
    return float((below + ties / 2).mean() / len(negative))


def accuracy_at(scores: PairScores, threshold: float) -> float:
    """Balanced accuracy of ``p > threshold``."""
    return float(((scores.positive > threshold).mean() + (scores.negative <= threshold).mean()) / 2)


def best_threshold(scores: PairScores) -> float:
    """Threshold with the highest balanced accuracy; for validation data only."""
    candidates = np.quantile(np.concatenate([scores.positive, scores.negative]), np.linspace(0.005, 0.995, 199))
    return float(max(candidates, key=lambda threshold: accuracy_at(scores, float(threshold))))


def bootstrap(
    values: dict[str, Callable[[PairScores], float]], scores: PairScores, seed: int
) -> dict[str, list[float]]:
    """95 % percentile intervals over clips.

    Args:
        values: statistics by name.
        scores: the pairs.
        seed: of the resampling.

    Returns:
        [low, high] by name.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(scores.clip, kind="stable")
    clips, first = np.unique(scores.clip[order], return_index=True)
    rows = np.split(order, first[1:])
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(BOOTSTRAPS):
        index = np.concatenate([rows[i] for i in generator.integers(len(clips), size=len(clips))])
        sample = PairScores(scores.positive[index], scores.negative[index], scores.clip[index], scores.voiced[index])
        for name, statistic in values.items():
            drawn[name].append(statistic(sample))
    return {name: [round(float(x), 4) for x in np.percentile(series, [2.5, 97.5])] for name, series in drawn.items()}


def retrieve(clip: ClipEmbedding, frames: int) -> NDArray[np.bool_]:
    """Whether the best of 31 offsets is within one frame of 0, for every run of ``frames`` frames.

    Args:
        clip: embedded clip.
        frames: K, 5 or more; K - 4 neighbouring windows are averaged.

    Returns:
        (n,) with n the runs; none for a clip shorter than K frames.
    """
    if len(clip.visual) < frames - 4:
        return np.zeros(0, bool)
    mean = np.lib.stride_tricks.sliding_window_view(offset_table(clip), frames - 4, axis=0).mean(-1)
    # offsets whose audio lies outside the clip cannot be chosen: short clips have fewer candidates
    return np.abs(np.where(np.isnan(mean), -np.inf, mean).argmax(1) - MAX_OFFSET) <= TOLERANCE


def estimate_offset(clip: ClipEmbedding) -> int:
    """Offset of a whole clip in frames, positive = audio late: the highest mean probability among 31."""
    return int(np.nanargmax(offset_curve(offset_table(clip)))) - MAX_OFFSET


def summarise_pairs(scores: PairScores, threshold: float, seed: int) -> dict[str, Any]:
    """Accuracy at 0.5 and at the threshold, and AUC, with intervals."""
    statistics: dict[str, Callable[[PairScores], float]] = {
        "accuracy_at_0.5": lambda s: accuracy_at(s, 0.5),
        "accuracy": lambda s: accuracy_at(s, threshold),
        "auc": lambda s: area_under_curve(s.positive, s.negative),
    }
    intervals = bootstrap(statistics, scores, seed)
    values = {name: round(statistic(scores), 4) for name, statistic in statistics.items()}
    return {
        **values,
        "threshold": round(threshold, 4),
        "n": 2 * len(scores.positive),
        "ci95": intervals["accuracy"],
        "ci95_accuracy_at_0.5": intervals["accuracy_at_0.5"],
        "ci95_auc": intervals["auc"],
    }


RETRIEVAL_FRAMES = (5, 7, 9, 11, 13, 15)
VOICES = 4  # other clips that a clip's negatives are drawn from


def score_cross_pairs(clips: Sequence[ClipEmbedding], seed: int) -> PairScores | None:
    """Score every window once with its own voice and once with a random window of another speaker.

    Args:
        clips: embedded clips.
        seed: of the draw.

    Returns:
        Scores of balanced pairs, None when there is only one speaker.
    """
    generator = np.random.default_rng(seed)
    speakers = np.array([clip.entry.speaker for clip in clips])
    positive: list[Array] = []
    negative: list[Array] = []
    for clip in clips:
        others = np.flatnonzero(speakers != clip.entry.speaker)
        if not len(others):
            return None
        rows = np.arange(len(clip.visual))
        voices = generator.choice(others, VOICES)
        turn = generator.integers(VOICES, size=len(rows))
        wrong = np.zeros(len(rows))
        for index, voice in enumerate(voices):
            mine = np.flatnonzero(turn == index)
            columns = generator.integers(len(clips[voice].audio), size=len(mine))
            wrong[mine] = score_windows(clip, mine, columns, clips[voice])
        positive.append(score_windows(clip, rows, rows))
        negative.append(wrong)
    clip_index = np.repeat(np.arange(len(clips)), [len(scores) for scores in positive])
    voiced = np.concatenate([clip.voiced for clip in clips])
    return PairScores(np.concatenate(positive), np.concatenate(negative), clip_index, voiced)


def summarise_detection(scores: PairScores, threshold: float, seed: int) -> dict[str, Any]:
    """Share of the negatives that are called out of sync, at 0.5 and at the threshold, with intervals."""
    statistics: dict[str, Callable[[PairScores], float]] = {
        "accuracy_at_0.5": lambda s: float((s.negative <= 0.5).mean()),
        "accuracy": lambda s: float((s.negative <= threshold).mean()),
    }
    intervals = bootstrap(statistics, scores, seed)
    return {
        **{name: round(statistic(scores), 4) for name, statistic in statistics.items()},
        "threshold": round(threshold, 4),
        "n": len(scores.negative),
        "ci95": intervals["accuracy"],
        "ci95_accuracy_at_0.5": intervals["accuracy_at_0.5"],
    }


def summarise_retrieval(clips: Sequence[ClipEmbedding], seed: int) -> dict[str, dict[str, Any]]:
    """``retrieval@K`` for every K, with intervals over clips."""
    generator = np.random.default_rng(seed)
    summary: dict[str, dict[str, Any]] = {}
    for frames in RETRIEVAL_FRAMES:
        hits = [hit for hit in (retrieve(clip, frames) for clip in clips) if hit.size]
        if not hits:
            continue
        right, count = np.array([hit.sum() for hit in hits]), np.array([hit.size for hit in hits])
        draws = generator.integers(len(hits), size=(BOOTSTRAPS, len(hits)))
        interval = np.percentile(right[draws].sum(1) / count[draws].sum(1), [2.5, 97.5])
        summary[str(frames)] = {
            "accuracy": round(float(right.sum() / count.sum()), 4),
            "ci95": [round(float(x), 4) for x in interval],
            "n": int(count.sum()),
        }
    return summary
