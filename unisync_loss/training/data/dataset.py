"""Training data, and the batches drawn from it: many clips, a few short segments of each, every pair scored.

Axes: N segments of a batch, L frames of a segment, W = L - 4 windows of a segment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from unisync_loss.config import SAMPLES_PER_FRAME, WINDOW_FRAMES, UniSyncConfig
from unisync_loss.data.clips import ClipEntry, frames_with_audio
from unisync_loss.representations import mel_spectrogram
from unisync_loss.training.data.batches import Batch, PairBatch, Views
from unisync_loss.training.data.cache import (
    CUT_SIZE,
    VIEWS,
    CachedClip,
    CachedMesh,
    Part,
    cache_path,
    is_cached,
    load_cached,
    load_crop,
    load_mesh,
)
from unisync_loss.training.data.face_features import series_of_mesh
from unisync_loss.training.data.memmap import Table
from unisync_loss.training.data.pairs import PairPlan, draw_pairs
from unisync_loss.utils.distributed import ALONE, ProcessGroup
from unisync_loss.utils.progress import Progress
from unisync_loss.video.voicing import voiced_windows

TEMPO = (0.85, 1.18)  # of clips that are drawn as if spoken slower or faster

Array = NDArray[np.float64]
#: waveform (S,) → features (L, F), those of :attr:`UniSyncConfig.audio`
Listen = Callable[[NDArray[np.float32]], NDArray[np.float16]]


class ClipData:
    """All cached clips of a set, offsets put right, with the odds of drawing each.

    Args:
        entries: clips, all cached.
        folder: of the cache.
        config: of the expert: what is seen and heard.
        shortest: frames that a clip must have.
        listen: makes HuBERT features; not needed for mel.
        log: takes lines of progress.

    Raises:
        ValueError: when no clip is long enough, or a file of the cache is of another kind than the others.
        OSError: on a full disk.
    """

    def __init__(
        self,
        entries: list[ClipEntry],
        folder: Path,
        config: UniSyncConfig,
        shortest: int,
        listen: Listen | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Read the cache into a few large arrays, in files without a name."""
        self.config = config
        listen = listen or partial(_mel_of, config)
        part = part_of(config)
        kept = [entry for entry in entries if is_cached(entry, folder, part)]
        self.entries: list[ClipEntry] = []
        self.broken: dict[str, str] = {}
        frames, steps, voiced = [], [], []
        seen, once = (defaultdict[str, Table](partial(Table, folder)) for _ in range(2))
        audio = Table(folder)
        progress = Progress(log, len(kept), "clips read")
        for done, entry in enumerate(kept):
            progress.update(done)
            try:
                aligned = _put_right(_read(entry, folder, config), entry.offset, shortest, listen)
            except (SafetensorError, TypeError, ValueError) as error:
                self.broken[entry.name] = f"{cache_path(entry, folder, part).name} in the cache cannot be used: {error}"
                continue
            if aligned is None:
                continue
            self.entries.append(entry)
            frames.append(aligned.frames)
            steps.append(len(aligned.audio))
            voiced.append(aligned.voiced)
            audio.add(aligned.audio)
            for name, values in aligned.seen.items():
                seen[name].add(values)
            for name, values in aligned.once.items():
                once[name].add(values[None])
        if not self.entries:
            raise ValueError(f"expected at least one clip of {shortest} frames with a face and a voice, got none")
        self.frames, self.voiced = np.array(frames), np.concatenate(voiced)
        self.first_frame = np.cumsum([0, *frames[:-1]])
        self.first_step = np.cumsum([0, *steps[:-1]])
        self.seen = {name: table.array() for name, table in seen.items()}
        self.once = {name: table.array() for name, table in once.items()}
        self.audio = audio.array()
        _, self.speaker = np.unique([entry.speaker for entry in self.entries], return_inverse=True)
        self.odds = speaker_odds(self.speaker, self.frames)

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.frames)

    def draw(
        self,
        generator: np.random.Generator,
        clips: int,
        segments: int,
        length: int,
        group: ProcessGroup = ALONE,
        stretched: float = 0.0,
    ) -> Batch:
        """Draw a batch: different clips, segments of one clip apart where it is long enough.

        Args:
            generator: source of chance, the same in all processes.
            clips: clips of the batch.
            segments: segments of each.
            length: frames L of a segment.
            group: processes that share the batch.
            stretched: share of the clips that are drawn as if spoken faster or slower.

        Returns:
            This process's part of the batch, N = clips * segments in all.
        """
        chosen = generator.choice(len(self), size=min(clips, len(self)), replace=False, p=self.odds)
        last = self.frames[chosen] - 1
        tempo: Array = np.where(generator.random(len(chosen)) < stretched, generator.uniform(*TEMPO, len(chosen)), 1.0)
        tempo = np.where(last > (length - 1) * tempo, tempo, 1.0)
        room = (last - (length - 1) * tempo)[:, None]
        step = length * tempo[:, None]
        apart = room - (segments - 1) * step
        places = np.sort(generator.random((len(chosen), segments)), axis=1)
        starts = np.where(apart >= 0, places * (apart + 0.999) + np.arange(segments) * step, places * (room + 0.999))
        starts = np.where(tempo[:, None] == 1, np.floor(starts), np.minimum(starts, room))
        clip, start = group.shard(np.repeat(chosen, segments)), group.shard(starts.ravel())
        return self.segments(clip, start, length, group.shard(np.repeat(tempo, segments)))

    def segments(self, clip: NDArray[np.int64], start: NDArray[Any], length: int, tempo: Array | float = 1.0) -> Batch:
        """Gather given segments; between two frames, and between two steps of sound, lies their mixture.

        Args:
            clip: (N,) indices of clips.
            start: (N,) first frames.
            length: frames L of a segment.
            tempo: (N,) frames of the clip per frame of the segment, or one for all.

        Returns:
            The batch.
        """
        tempo = np.broadcast_to(np.asarray(tempo, float), start.shape).copy()
        window = start[:, None] + np.arange(length - WINDOW_FRAMES + 1) * tempo[:, None]
        voiced = self.voiced[self.first_frame[clip, None] + window.astype(int)]
        return Batch(
            seen=self._see(clip, start, length, tempo),
            audio=self._hear(clip, start, length, tempo),
            clip=torch.from_numpy(clip),
            speaker=torch.from_numpy(self.speaker[clip]),
            start=torch.from_numpy(start),
            tempo=torch.from_numpy(tempo),
            silent=torch.from_numpy(~voiced),
            length=length,
        )

    def draw_pairs(
        self, generator: np.random.Generator, plan: PairPlan, count: int, group: ProcessGroup = ALONE
    ) -> PairBatch:
        """Draw random pairs of single windows; this process's part of ``count``. See :func:`pairs.draw_pairs`."""
        drawn = draw_pairs(plan, self.frames, self.speaker, self.odds, count, generator)
        kind, clip, start, voice, voice_start = (group.shard(values) for values in drawn)
        places = self.first_frame[clip] + start, self.first_frame[voice] + voice_start
        silent = ~self.voiced[places[0]] & ~self.voiced[places[1]]
        usual = np.ones(len(clip))
        seen, audio = (
            self._see(clip, start, WINDOW_FRAMES, usual),
            self._hear(voice, voice_start, WINDOW_FRAMES, usual),
        )
        return PairBatch(seen, audio, torch.from_numpy(kind), torch.from_numpy(silent))

    def _see(self, clip: NDArray[np.int64], start: NDArray[Any], length: int, tempo: Array) -> dict[str, Tensor]:
        frame = start[:, None] + np.arange(length) * tempo[:, None]
        place = self.first_frame[clip, None] + frame.clip(0, self.frames[clip, None] - 1)
        seen = {name: _between(values, place) for name, values in self.seen.items()}
        if "rest" in self.once:
            seen["rest"] = torch.from_numpy(self.once["rest"][clip])[:, None]
        return seen

    def _hear(self, clip: NDArray[np.int64], start: NDArray[Any], length: int, tempo: Array) -> Tensor:
        per_frame = float(self.config.steps_per_frame)
        steps = int((length - WINDOW_FRAMES) * self.config.steps_per_frame) + self.config.window_steps
        first = np.where(tempo == 1, np.floor(start * per_frame), start * per_frame)
        step = first[:, None] + np.arange(steps) * tempo[:, None]
        last = np.diff([*self.first_step, len(self.audio)])[clip, None] - 1
        audio = _between(self.audio, self.first_step[clip, None] + step.clip(0, last)).float()
        return rearrange(audio, "n m f -> n f m") if self.config.audio == "mel" else audio

    def draw_views(self, generator: np.random.Generator, count: int, group: ProcessGroup = ALONE) -> Views:
        """Draw whole-crop views for the aligner: this process's part of ``count``."""
        clip = generator.choice(len(self), size=count, p=self.odds)
        view = generator.integers(VIEWS, size=count)
        clip, view = group.shard(clip), group.shard(view)
        views = rearrange(torch.from_numpy(self.once["views"][clip, view]), "n h w c -> n c h w").float() / 255
        return Views(views, torch.from_numpy(self.once["poses"][clip, view]))


def _between(values: NDArray[Any], place: Array) -> Tensor:
    """Values at fractional places (N, L) along the first axis."""
    low = np.floor(place).astype(int)
    mixed = torch.from_numpy(values[low])
    share = (place - low).astype(np.float32)
    rows = (share > 0).any(1)  # most segments are as they were filmed: they are not touched
    if rows.any():
        high = torch.from_numpy(values[np.minimum(low + 1, len(values) - 1)[rows]])
        weight = torch.from_numpy(share[rows]).reshape(*high.shape[:2], *[1] * (high.ndim - 2))
        between = mixed[rows].float().lerp(high.float(), weight)
        mixed[rows] = (between.round() if mixed.dtype == torch.uint8 else between).to(mixed.dtype)
    return mixed


@dataclass(frozen=True)
class _Seen:
    """A clip as the cache has it: arrays of its frames, arrays of the whole, the voice."""

    seen: dict[str, NDArray[Any]]
    once: dict[str, NDArray[Any]]
    waveform: NDArray[np.float32]


@dataclass(frozen=True)
class _Aligned:
    frames: int
    seen: dict[str, NDArray[Any]]
    once: dict[str, NDArray[Any]]
    audio: NDArray[np.float16]
    voiced: NDArray[np.bool_]


def part_of(config: UniSyncConfig) -> Part:
    """What of a clip an expert is trained on."""
    if config.visual != "rgb":
        return "mesh"
    return "mouth" if config.architecture == "small" else "crop"


def _read(entry: ClipEntry, folder: Path, config: UniSyncConfig) -> _Seen:
    part = part_of(config)
    if part == "mouth":
        return _see_mouth(load_cached(entry, folder))
    if part == "crop":
        crop = load_crop(entry, folder)
        return _Seen({"crops": crop.crops}, {}, crop.waveform)
    return _see_mesh(load_mesh(entry, folder), config)


def _see_mouth(clip: CachedClip) -> _Seen:
    return _Seen({"cuts": clip.cuts, "motion": clip.points}, {"views": clip.views, "poses": clip.poses}, clip.waveform)


def _see_mesh(clip: CachedMesh, config: UniSyncConfig) -> _Seen:
    return _Seen({"series": series_of_mesh(config, clip)}, {}, clip.waveform)


def _put_right(clip: _Seen, offset: float, shortest: int, listen: Listen) -> _Aligned | None:
    """Shift the audio by the offset and take its features; nothing of a clip that is too short."""
    frames = len(next(iter(clip.seen.values())))
    first, last = frames_with_audio(frames, offset)
    if last - first < max(shortest, WINDOW_FRAMES):
        return None
    start = round((first + offset) * SAMPLES_PER_FRAME)
    waveform = clip.waveform[start : start + (last - first) * SAMPLES_PER_FRAME]
    seen, once = {name: values[first:last] for name, values in clip.seen.items()}, dict(clip.once)
    # one mouth's rest is another's smile: only what moves is alike in all people
    if "motion" in seen:
        seen["motion"] = seen["motion"] - np.median(seen["motion"], axis=0)
    if "series" in seen:
        once["rest"] = seen["series"].mean(axis=0)  # as experts take it
    windows = last - first - WINDOW_FRAMES + 1
    voiced = np.pad(voiced_windows(waveform, windows), (0, WINDOW_FRAMES - 1))  # by first frame
    return _Aligned(last - first, seen, once, listen(waveform), voiced)


def _mel_of(config: UniSyncConfig, waveform: NDArray[np.float32]) -> NDArray[np.float16]:
    return mel_spectrogram(torch.from_numpy(waveform.copy())[None], config.mel_padding)[0].T.half().numpy()


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
