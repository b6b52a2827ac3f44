"""Embeddings of clips by an expert, and scores of their windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import SIDE_FIELDS, WINDOW_FRAMES
from unisync_loss.data.clips import ClipEntry, check_visual, load_clip, visual_of_clip
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.functional import offset_matrix, sync_probability
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.released import tower_state
from unisync_loss.utils.tensors import Array
from unisync_loss.video.clip import Clip
from unisync_loss.video.reading import read_clip_isolated
from unisync_loss.video.voicing import voiced_windows

_CHUNK_FRAMES = 250  # windows of a clip encoded at a time, at most: constant memory
_PAIRS_AT_ONCE = 4096  # passed to a model's own score

PairScore = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ClipEmbedding:
    """Windows of a clip, embedded.

    Attributes:
        entry: the clip.
        audio: (W, D) audio embeddings before ReLU.
        visual: (W, D) visual embeddings before ReLU.
        voiced: (W,) voiced windows, by level.
        score: maps n audio and n visual windows (n, …) to (n,), higher = better in sync. A model whose score is no
            function of our kind of embedding brings its own, with its windows as ``audio`` and ``visual``.
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
    skipped: dict[str, str] | None = None,
    *,
    isolated: bool = False,
) -> Iterator[ClipEmbedding]:
    """Decode and embed clips one by one.

    Args:
        expert: in eval mode.
        entries: of ``clips.list_clips``.
        transform: applied to the representation (1, T, …) of the frames first, to test robustness.
        skipped: receives name and reason of clips that cannot be read or show no face where the expert needs one;
            without it they raise.
        isolated: decode in another process, so that a clip that crashes or blocks FFmpeg is one that cannot be read,
            see :func:`unisync_loss.utils.process_pool.iterate_isolated`.

    Yields:
        One embedding per clip, in order.

    Raises:
        ValueError: for an expert whose representation cannot be made from video, an audio model that is not available,
            or a clip that cannot be read.
        FileNotFoundError: for a clip that does not exist.
    """
    check_visual(expert.config, entries)
    for entry in entries:
        try:
            clip = read_clip_isolated(load_clip, entry) if isolated else load_clip(entry)
            video = visual_input(expert, entry, clip)
        except (ValueError, OSError) as error:
            if skipped is None:
                raise
            skipped[entry.name] = str(error).removeprefix(f"{entry.path}: ").removeprefix(f"{entry.name}: ")
            continue
        yield embed_video(expert, entry, video, clip.waveform, transform)


def embed_clip(
    expert: UniSyncExpert, entry: ClipEntry, clip: Clip, transform: Callable[[Tensor], Tensor] | None = None
) -> ClipEmbedding:
    """Embed a clip that is decoded already; see :func:`embed_clips`.

    Raises:
        ValueError: for an expert whose representation cannot be made from video, or a clip in which it is not found.
    """
    return embed_video(expert, entry, visual_input(expert, entry, clip), clip.waveform, transform)


def visual_input(expert: UniSyncExpert, entry: ClipEntry, clip: Clip) -> Tensor:
    """Representation (1, T, …) that the expert takes of a clip; frames as bytes."""
    if not expert.visual_input.needs_mesh:
        return rearrange(torch.from_numpy(clip.frames), "t h w c -> 1 t c h w")
    return visual_of_clip(expert.config, entry, clip)


def embed_video(
    expert: UniSyncExpert,
    entry: ClipEntry,
    video: Tensor,
    waveform: NDArray[np.float32],
    transform: Callable[[Tensor], Tensor] | None = None,
) -> ClipEmbedding:
    """Embed a clip from its visual representation.

    Args:
        expert: in eval mode.
        entry: of the clip.
        video: (1, T, …) as the expert takes it, but frames as bytes.
        waveform: (640 T,).
        transform: see :func:`embed_clips`.
    """
    audio = embed_audio(expert, waveform, video.shape[1])
    return ClipEmbedding(entry, audio, embed_visual(expert, video, transform), voiced_windows(waveform, len(audio)))


@torch.inference_mode()
def embed_audio(expert: UniSyncExpert, waveform: NDArray[np.float32], frames: int) -> Tensor:
    """Embed the audio of a clip.

    Args:
        expert: in eval mode; only its audio tower is used.
        waveform: (640 T,).
        frames: number T of video frames, 5 or more.

    Returns:
        (T - 4, D) audio embeddings before ReLU, on the CPU.
    """
    device = next(expert.parameters()).device
    return expert.encode_audio(torch.from_numpy(waveform)[None].to(device), frames)[0].cpu()


@torch.inference_mode()
def embed_visual(expert: UniSyncExpert, video: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Embed the visual representation of a clip.

    Args:
        expert: in eval mode; only its visual tower is used.
        video: (1, T, …) as the expert takes it, but frames as bytes; T is 5 or more.
        transform: see :func:`embed_clips`.

    Returns:
        (T - 4, D) visual embeddings before ReLU, on the CPU.
    """
    device = next(expert.parameters()).device
    chunks = (_to_unit(part.to(device), expert) for part in _overlapping(video))
    return torch.cat([expert.encode_visual(transform(chunk) if transform else chunk)[0] for chunk in chunks]).cpu()


def _to_unit(video: Tensor, expert: UniSyncExpert) -> Tensor:
    """Scale frames from bytes to [0, 1], chunk by chunk to save memory; other representations stay."""
    return video if expert.visual_input.needs_mesh else video.float() / 255


def _overlapping(video: Tensor) -> Iterator[Tensor]:
    """Cut (1, T, …) into chunks of similar length that share four frames, so that no window is lost."""
    windows = video.shape[1] - WINDOW_FRAMES + 1
    step = math.ceil(windows / math.ceil(windows / _CHUNK_FRAMES))
    for start in range(0, windows, step):
        yield video[:, start : start + step + WINDOW_FRAMES - 1]


def share_audio(first: UniSyncExpert, second: UniSyncExpert) -> bool:
    """Whether two experts make the same embeddings of audio: equal settings of that side, and equal weights."""
    names = ("architecture", "audio", *SIDE_FIELDS["audio"])
    if any(getattr(first.config, name) != getattr(second.config, name) for name in names):
        return False
    states = (tower_state(expert.state_dict(), "audio") for expert in (first, second))
    return all(torch.equal(*pair) for pair in zip(*(state.values() for state in states), strict=True))


def score_windows(
    clip: ClipEmbedding, rows: NDArray[np.int64], columns: NDArray[np.int64], other: ClipEmbedding | None = None
) -> Array:
    """Score visual windows ``rows`` (n,) of a clip with audio windows ``columns`` (n,) of the same or another clip."""
    audio = (other or clip).audio
    parts = [
        clip.score(audio[columns[start : start + _PAIRS_AT_ONCE]], clip.visual[rows[start : start + _PAIRS_AT_ONCE]])
        for start in range(0, len(rows), _PAIRS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0), *(part.detach().double().cpu().numpy() for part in parts)])


def offset_table(clip: ClipEmbedding) -> Array:
    """Score of every window at every candidate offset, (W, 31), NaN where there is no such audio window."""
    if clip.score is sync_probability:  # one matrix product instead of 31 W pairs
        return offset_matrix(clip.audio[None], clip.visual[None], MAX_OFFSET)[0].double().numpy()
    windows = len(clip.visual)
    rows, columns = np.meshgrid(np.arange(windows), np.arange(-MAX_OFFSET, MAX_OFFSET + 1), indexing="ij")
    exists = (rows + columns >= 0) & (rows + columns < windows)
    table = np.full(exists.shape, np.nan)
    table[exists] = score_windows(clip, rows[exists], (rows + columns)[exists])
    return table
