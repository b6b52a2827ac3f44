"""How good an expert is: the protocols ``pairs`` and ``retrieval@K``, with intervals, on folders of clips.

``pairs``: each synchronised window against the same clip's audio at a random other place at least two frames away;
balanced; at 0.5 and at the checkpoint's own threshold. ``retrieval@K``: the right offset within ±1 frame among 31, by
averaging K - 4 neighbouring windows. Intervals are 95 % percentile bootstraps over clips: windows of one clip are not
independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.clips import ClipEntry, load_clip
from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.expert import UniSyncExpert
from unisync_loss.functional import offset_matrix, sync_probability
from unisync_loss.media import Clip
from unisync_loss.offsets import offset_curve
from unisync_loss.providers import check_provided, visual_of_frames

MIN_SHIFT = 2  # frames: one frame off is right by every offset metric
MAX_OFFSET = 15  # frames
TOLERANCE = 1  # frame
BOOTSTRAPS = 1000
_CHUNK_FRAMES = 250  # windows of a clip encoded at a time, at most: constant memory
_VOICED = 0.1  # share of the clip's loud level above which a window counts as voiced

_PAIRS_AT_ONCE = 4096  # given to a peer's score

Array = NDArray[np.float64]
PairScore = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ClipEmbedding:
    """A clip as an expert sees it.

    Attributes:
        entry: the clip.
        audio: (W, D) before ReLU.
        visual: (W, D) before ReLU.
        voiced: (W,) windows with a voice in them, by level.
        score: (n, …) audio and (n, …) visual windows → (n,), higher = better in sync. Peers that give no probability
            from embeddings bring their own, and whatever it takes as ``audio`` and ``visual``, window by window.
    """

    entry: ClipEntry
    audio: Tensor
    visual: Tensor
    voiced: NDArray[np.bool_]
    score: PairScore = sync_probability


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


def embed_clips(
    expert: UniSyncExpert,
    entries: Sequence[ClipEntry],
    transform: Callable[[Tensor], Tensor] | None = None,
    left_out: dict[str, str] | None = None,
) -> Iterator[ClipEmbedding]:
    """Decode and embed clips one by one.

    Args:
        expert: in eval mode.
        entries: of ``clips.list_clips``.
        transform: applied to the (1, T, …) representation of the frames first, to test robustness.
        left_out: takes name and reason of clips that cannot be read or show no face where the expert needs one;
            without it they are errors.

    Yields:
        One embedding a clip, in order.

    Raises:
        ValueError: for an expert whose representation cannot be made from video, a HuBERT that cannot be had, or a
            clip that cannot be read.
        FileNotFoundError: for a clip that is gone.
    """
    check_provided(expert.config)
    for entry in entries:
        try:
            clip = load_clip(entry)
            video = _look(expert, entry, clip)
        except (ValueError, OSError) as error:
            if left_out is None:
                raise
            left_out[entry.name] = str(error).removeprefix(f"{entry.path}: ").removeprefix(f"{entry.name}: ")
            continue
        yield embed_video(expert, entry, video, clip.waveform, transform)


def embed_clip(
    expert: UniSyncExpert, entry: ClipEntry, clip: Clip, transform: Callable[[Tensor], Tensor] | None = None
) -> ClipEmbedding:
    """Embed a clip that is decoded already; see :func:`embed_clips`.

    Raises:
        ValueError: for an expert whose representation cannot be made from video, or a clip in which it is not found.
    """
    return embed_video(expert, entry, _look(expert, entry, clip), clip.waveform, transform)


def _look(expert: UniSyncExpert, entry: ClipEntry, clip: Clip) -> Tensor:
    """What the expert sees of a clip, (1, T, …); colours as bytes."""
    if expert.config.visual == "rgb":
        return rearrange(torch.from_numpy(clip.frames), "t h w c -> 1 t c h w")
    try:
        return visual_of_frames(expert.config, clip.frames)
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}") from error


def embed_video(
    expert: UniSyncExpert,
    entry: ClipEntry,
    video: Tensor,
    waveform: NDArray[np.float32],
    transform: Callable[[Tensor], Tensor] | None = None,
) -> ClipEmbedding:
    """Embed a clip whose representation is there already.

    Args:
        expert: in eval mode.
        entry: of the clip.
        video: (1, T, …) as the expert takes it, but colours as bytes.
        waveform: (640 T,).
        transform: see :func:`embed_clips`.
    """
    device = next(expert.parameters()).device
    with torch.inference_mode():
        audio = expert.encode_audio(torch.from_numpy(waveform)[None].to(device), video.shape[1])[0]
        visual = torch.cat(
            [
                expert.encode_visual(transform(chunk) if transform else chunk)[0]
                for chunk in (_to_unit(piece.to(device), expert.config.visual) for piece in _overlapping(video))
            ]
        )
    return ClipEmbedding(entry, audio.cpu(), visual.cpu(), voiced_windows(waveform, len(visual)))


def _to_unit(video: Tensor, visual: str) -> Tensor:
    """Colours of a piece from bytes to [0, 1], here and not of the whole clip, for memory; others as they are."""
    return video.float() / 255 if visual == "rgb" else video


def _overlapping(video: Tensor) -> Iterator[Tensor]:
    """Cut (1, T, …) into chunks of like length that share four frames, so that no window is lost."""
    windows = video.shape[1] - WINDOW_FRAMES + 1
    step = math.ceil(windows / math.ceil(windows / _CHUNK_FRAMES))
    for start in range(0, windows, step):
        yield video[:, start : start + step + WINDOW_FRAMES - 1]


def voiced_windows(waveform: NDArray[np.float32], windows: int) -> NDArray[np.bool_]:
    """Windows of 0.2 s whose level exceeds a tenth of the clip's loud level."""
    slices = np.lib.stride_tricks.sliding_window_view(waveform, 3200)[::640][:windows]
    return voiced_by_level(np.sqrt((slices.astype(np.float64) ** 2).mean(1)))


def voiced_by_level(level: Array) -> NDArray[np.bool_]:
    """Which windows have a voice in them: (W,) levels of one recording → (W,)."""
    voiced: NDArray[np.bool_] = level > max(_VOICED * float(np.percentile(level, 95)), 1e-4)
    return voiced


def score_windows(
    clip: ClipEmbedding, rows: NDArray[np.int64], columns: NDArray[np.int64], voice: ClipEmbedding | None = None
) -> Array:
    """Score visual windows ``rows`` (n,) of a clip with audio windows ``columns`` (n,) of its own or another voice."""
    audio = (voice or clip).audio
    parts = [
        clip.score(audio[columns[start : start + _PAIRS_AT_ONCE]], clip.visual[rows[start : start + _PAIRS_AT_ONCE]])
        for start in range(0, len(rows), _PAIRS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0), *(part.detach().double().cpu().numpy() for part in parts)])


def offset_table(clip: ClipEmbedding) -> Array:
    """Score of every window at every candidate offset, (W, 31), NaN where there is no such audio window."""
    if clip.score is sync_probability:  # one matrix product
        return offset_matrix(clip.audio[None], clip.visual[None], MAX_OFFSET)[0].double().numpy()
    windows = len(clip.visual)
    rows, columns = np.meshgrid(np.arange(windows), np.arange(-MAX_OFFSET, MAX_OFFSET + 1), indexing="ij")
    there = (rows + columns >= 0) & (rows + columns < windows)
    table = np.full(there.shape, np.nan)
    table[there] = score_windows(clip, rows[there], (rows + columns)[there])
    return table


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
