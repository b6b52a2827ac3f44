"""Training data in memory, and the batches drawn from it: many clips, a few short segments of each, every pair scored.

Axes: N segments of a batch, L frames of a segment, W = L - 4 windows of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.cache import CUT_SIZE, VIEWS, CachedClip, cache_path, load_cached
from unisync_loss.clips import ClipEntry, frames_with_audio
from unisync_loss.config import SAMPLES_PER_FRAME, STEP_RATE, WINDOW_FRAMES, UniSyncConfig
from unisync_loss.representations import mel_spectrogram

MEL_PER_FRAME = STEP_RATE["mel"] / 25
STRETCHED = 0.5  # share of segments that are spoken faster or slower than they were
TEMPO = (0.85, 1.18)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """Segments of clips.

    Attributes:
        cuts: (N, L, 80, 80, 3) uint8 mouth cuts.
        motion: (N, L, 52, 2) displacement of the mouth points from the clip's median, in template coordinates.
        mel: (N, 80, M) mel of the same time, M = floor(3.2 (L - 5)) + 16.
        clip: (N,) which clip.
        speaker: (N,) whose voice.
        start: (N,) first frame, fractional where tempo is not 1.
        tempo: (N,) frames of the clip per frame of the segment.
    """

    cuts: Tensor
    motion: Tensor
    mel: Tensor
    clip: Tensor
    speaker: Tensor
    start: Tensor
    tempo: Tensor

    def window_labels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Clip, speaker and first frame of every window, each (N * W,)."""
        windows = self.cuts.shape[1] - WINDOW_FRAMES + 1
        time = self.start[:, None] + torch.arange(windows) * self.tempo[:, None]
        repeated = [
            rearrange(label[:, None].expand(-1, windows), "n w -> (n w)") for label in (self.clip, self.speaker)
        ]
        return repeated[0], repeated[1], rearrange(time, "n w -> (n w)")


class ClipData:
    """All cached clips of a set, offsets put right, with the odds of drawing each.

    Args:
        entries: clips, all cached.
        folder: of the cache.
        config: for the mel.
        shortest: frames that a clip must have.
        seed: of the test whether features vary, unused otherwise.

    Raises:
        ValueError: when no clip is long enough.
    """

    def __init__(self, entries: list[ClipEntry], folder: Path, config: UniSyncConfig, shortest: int) -> None:
        """Read the cache into a few large arrays."""
        kept = [entry for entry in entries if cache_path(entry, folder).exists()]
        parts = [_put_right(load_cached(entry, folder), entry.offset, config) for entry in kept]
        long_enough = [index for index, part in enumerate(parts) if len(part.cuts) >= shortest]
        if not long_enough:
            raise ValueError(f"expected at least one clip of {shortest} frames with a face and a voice, got none")
        self.entries = [kept[index] for index in long_enough]
        parts = [parts[index] for index in long_enough]
        self.frames = np.array([len(part.cuts) for part in parts])
        self.first_frame = np.cumsum([0, *self.frames[:-1]])
        self.first_step = np.cumsum([0, *[len(part.mel) for part in parts[:-1]]])
        self.cuts = np.concatenate([part.cuts for part in parts])
        # one mouth's rest is another's smile: only what moves is alike in all people
        self.motion = np.concatenate([part.points - np.median(part.points, axis=0) for part in parts])
        self.mel = np.concatenate([part.mel for part in parts])
        self.views = np.concatenate([part.views for part in parts])
        self.poses = np.concatenate([part.poses for part in parts])
        _, self.speaker = np.unique([entry.speaker for entry in self.entries], return_inverse=True)
        self.odds = speaker_odds(self.speaker, self.frames)

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.frames)

    def draw(self, generator: np.random.Generator, clips: int, segments: int, length: int) -> Batch:
        """Draw a batch: different clips, segments of one clip apart where it is long enough.

        Args:
            generator: source of chance.
            clips: clips of the batch.
            segments: segments of each.
            length: frames L of a segment.

        Returns:
            The batch, N = clips * segments.
        """
        chosen = generator.choice(len(self), size=min(clips, len(self)), replace=False, p=self.odds)
        last = self.frames[chosen] - 1
        tempo = np.where(generator.random(len(chosen)) < STRETCHED, generator.uniform(*TEMPO, len(chosen)), 1.0)
        tempo = np.where(last > (length - 1) * tempo, tempo, 1.0)
        room = (last - (length - 1) * tempo)[:, None]
        step = length * tempo[:, None]
        apart = room - (segments - 1) * step
        places = np.sort(generator.random((len(chosen), segments)), axis=1)
        starts = np.where(apart >= 0, places * (apart + 0.999) + np.arange(segments) * step, places * (room + 0.999))
        starts = np.where(tempo[:, None] == 1, np.floor(starts), np.minimum(starts, room))
        return self.segments(np.repeat(chosen, segments), starts.ravel(), length, np.repeat(tempo, segments))

    def segments(self, clip: NDArray[np.int64], start: Array, length: int, tempo: Array) -> Batch:
        """Gather given segments; between two frames, and between two steps of mel, lies their mixture.

        Args:
            clip: (N,) indices of clips.
            start: (N,) first frames.
            length: frames L of a segment.
            tempo: (N,) frames of the clip per frame of the segment.

        Returns:
            The batch.
        """
        steps = int((length - WINDOW_FRAMES) * MEL_PER_FRAME) + 16
        frame = start[:, None] + np.arange(length) * tempo[:, None]
        step = np.where(tempo == 1, np.floor(start * MEL_PER_FRAME), start * MEL_PER_FRAME)
        mel_step = step[:, None] + np.arange(steps) * tempo[:, None]
        mel_steps = np.diff([*self.first_step, len(self.mel)])[clip, None]
        frame, mel_step = frame.clip(0, self.frames[clip, None] - 1), mel_step.clip(0, mel_steps - 1)
        frame, mel_step = self.first_frame[clip, None] + frame, self.first_step[clip, None] + mel_step
        return Batch(
            cuts=_between(self.cuts, frame),
            motion=_between(self.motion, frame),
            mel=rearrange(_between(self.mel, mel_step).float(), "n m f -> n f m"),
            clip=torch.from_numpy(clip),
            speaker=torch.from_numpy(self.speaker[clip]),
            start=torch.from_numpy(start),
            tempo=torch.from_numpy(tempo),
        )

    def draw_views(self, generator: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Draw whole-crop views for the aligner.

        Returns:
            (count, 3, 96, 96) in [0, 1] and their poses (count, 2, 3).
        """
        clip = generator.choice(len(self), size=count, p=self.odds)
        index = clip * VIEWS + generator.integers(VIEWS, size=count)
        views = rearrange(torch.from_numpy(self.views[index]), "n h w c -> n c h w").float() / 255
        return views, torch.from_numpy(self.poses[index])


def _between(values: NDArray[Any], place: Array) -> Tensor:
    """Values at fractional places (N, L) along the first axis."""
    low = np.floor(place).astype(int)
    mixed = torch.from_numpy(values[low])
    share = torch.from_numpy((place - low).astype(np.float32))
    rows = (share > 0).any(1)  # most segments are as they were filmed: they are not touched
    if rows.any():
        high = torch.from_numpy(values[np.minimum(low + 1, len(values) - 1)[rows]])
        share = share[rows].reshape(*share[rows].shape, *[1] * (mixed.ndim - 2))
        between = mixed[rows].float().lerp(high.float(), share)
        mixed[rows] = (between.round() if mixed.dtype == torch.uint8 else between).to(mixed.dtype)
    return mixed


@dataclass(frozen=True)
class _Aligned:
    cuts: NDArray[np.uint8]
    points: NDArray[np.float32]
    mel: NDArray[np.float16]
    views: NDArray[np.uint8]
    poses: NDArray[np.float32]


def _put_right(clip: CachedClip, offset: float, config: UniSyncConfig) -> _Aligned:
    """Shift the audio by the offset and take its mel."""
    first, last = frames_with_audio(len(clip.cuts), offset)
    start = round((first + offset) * SAMPLES_PER_FRAME)
    waveform = clip.waveform[start : start + (last - first) * SAMPLES_PER_FRAME]
    mel = np.zeros((0, 80), np.float16)
    if waveform.size >= WINDOW_FRAMES * SAMPLES_PER_FRAME:
        mel = mel_spectrogram(torch.from_numpy(waveform.copy())[None], config.mel_padding)[0].T.half().numpy()
    return _Aligned(clip.cuts[first:last], clip.points[first:last], mel, clip.views, clip.poses)


def speaker_odds(speaker: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Odds of each clip: speakers by the square root of their minutes, clips of a speaker by their length.

    One talker with 25 minutes would otherwise be heard more than all others.
    """
    total = np.bincount(speaker, weights=frames)
    odds = np.sqrt(total[speaker]) * frames / total[speaker]
    return odds / odds.sum()


def to_pixels(cuts: Tensor) -> Tensor:
    """(N, L, 80, 80, 3) uint8 → (N * L, 3, 80, 80) in [0, 1]."""
    assert cuts.shape[2] == CUT_SIZE
    return rearrange(cuts, "n l h w c -> (n l) c h w").float() / 255
