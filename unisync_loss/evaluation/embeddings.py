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

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.data.clips import ClipEntry, check_visual, load_clip, visual_of_clip
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.functional import offset_matrix, sync_probability
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.tensors import Array
from unisync_loss.video.clip import Clip
from unisync_loss.video.voicing import voiced_windows

_CHUNK_FRAMES = 250  # windows of a clip encoded at a time, at most: constant memory

_PAIRS_AT_ONCE = 4096  # given to a peer's score
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
    check_visual(expert.config, entries)
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
    return visual_of_clip(expert.config, entry, clip)


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
