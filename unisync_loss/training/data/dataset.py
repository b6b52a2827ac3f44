"""Dataset of cached clips with their audio offsets applied, and the batches gathered from it.

Axes: N segments of a batch, L frames of a segment, W = L - 4 windows of a segment.
"""

from __future__ import annotations

from collections.abc import Callable
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
from unisync_loss.training.data.batches import AlignerBatch, PairBatch, SegmentBatch
from unisync_loss.training.data.cache import cache_path, is_cached, load
from unisync_loss.training.data.cache_parts import PARTS, VIEWS, part_of
from unisync_loss.training.data.frame_store import AlignedClip, FrameStore
from unisync_loss.training.data.pairs import PairSampling
from unisync_loss.training.data.sampler import SegmentSampler
from unisync_loss.training.data.visual_frames import VisualFrames
from unisync_loss.utils.distributed import ALONE, ProcessGroup
from unisync_loss.utils.progress import Progress
from unisync_loss.utils.tensors import Array
from unisync_loss.video.voicing import voiced_windows

#: waveform (S,) → features (M, F) of the config's audio representation
AudioFeatures = Callable[[NDArray[np.float32]], NDArray[np.float16]]


def mel_features(config: UniSyncConfig, waveform: NDArray[np.float32]) -> NDArray[np.float16]:
    """Mel spectrogram (M, 80) of a waveform (S,)."""
    return mel_spectrogram(torch.from_numpy(waveform.copy())[None], config.mel_padding)[0].T.half().numpy()


def load_aligned(
    entry: ClipEntry, folder: Path, config: UniSyncConfig, part: str, audio_features: AudioFeatures, shortest: int
) -> AlignedClip | None:
    """Read a cached clip, apply its offset, and compute its audio features.

    Args:
        entry: the clip, cached.
        folder: of the cache.
        config: of the expert.
        part: of the cache, see :func:`part_of`.
        audio_features: of the waveform that belongs to the frames.
        shortest: frames that must have audio once the offset is applied.

    Returns:
        The clip; None when it is too short.

    Raises:
        SafetensorError: for a damaged file.
        KeyError: for a file of another part.
    """
    stored = load(entry, folder, part)
    waveform = stored["waveform"]
    first, last = frames_with_audio(len(waveform) // SAMPLES_PER_FRAME, entry.offset)
    if last - first < shortest:
        return None
    start = round((first + entry.offset) * SAMPLES_PER_FRAME)
    waveform = waveform[start : start + (last - first) * SAMPLES_PER_FRAME]
    per_frame, per_clip = PARTS[part].read(config, stored, slice(first, last))
    windows = last - first - WINDOW_FRAMES + 1
    # one value per frame, though none of the last four begins a window
    voiced = np.pad(voiced_windows(waveform, windows), (0, WINDOW_FRAMES - 1))
    return AlignedClip(per_frame, per_clip, audio_features(waveform), voiced)


class CachedClipDataset:
    """Clips of a set, from which batches are drawn.

    Args:
        entries: of the clips in ``store``.
        store: their frames and audio, finished.
        config: of the expert.
        part: of the cache that they were read from.
        broken: clips left out, with the reason.
        too_short: number of clips left out because they are shorter than asked.

    Attributes:
        speaker: (C,) index of each clip's speaker.
        sampler: draws clips and places.
    """

    def __init__(
        self,
        entries: list[ClipEntry],
        store: FrameStore,
        config: UniSyncConfig,
        part: str,
        broken: dict[str, str],
        too_short: int,
    ) -> None:
        self.entries, self.store, self.config = entries, store, config
        self.broken, self.too_short = broken, too_short
        _, self.speaker = np.unique([entry.speaker for entry in entries], return_inverse=True)
        self.sampler = SegmentSampler(store.frames, self.speaker)
        self._visual_frames = PARTS[part].frames

    @classmethod
    def from_cache(
        cls,
        entries: list[ClipEntry],
        folder: Path,
        config: UniSyncConfig,
        shortest: int,
        audio_features: AudioFeatures | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> CachedClipDataset:
        """Read clips from the cache; those that are not cached or too short are left out.

        Args:
            entries: the clips.
            folder: of the cache.
            config: of the expert.
            shortest: frames that a clip must have.
            audio_features: features of an encoder; not needed for mel.
            log: takes lines of progress.

        Raises:
            ValueError: when no clip is long enough.
            OSError: on a full disk.
        """
        audio_features = audio_features or partial(mel_features, config)
        part = part_of(config, entries)
        cached = [entry for entry in entries if is_cached(entry, folder, part)]
        store, kept, broken = FrameStore(folder), list[ClipEntry](), dict[str, str]()
        progress = Progress(log, len(cached), "clips read")
        for done, entry in enumerate(cached):
            progress.update(done)
            try:
                clip = load_aligned(entry, folder, config, part, audio_features, max(shortest, WINDOW_FRAMES))
            except (SafetensorError, KeyError, ValueError) as error:
                broken[entry.name] = f"{cache_path(entry, folder, part).name} in the cache cannot be used: {error}"
                continue
            if clip is not None:
                store.add(clip)
                kept.append(entry)
        if not kept:
            raise ValueError(f"expected at least one clip of {shortest} frames with a face and a voice, got none")
        store.finish()
        return cls(kept, store, config, part, broken, len(cached) - len(kept) - len(broken))

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.entries)

    def draw(
        self,
        rng: np.random.Generator,
        clips: int,
        segments: int,
        length: int,
        group: ProcessGroup = ALONE,
        tempo_share: float = 0.0,
    ) -> SegmentBatch:
        """Draw a batch of segments; see :meth:`SegmentSampler.draw`.

        Args:
            rng: random generator, in the same state in all processes.
            clips: clips of the batch.
            segments: segments of each.
            length: frames L of a segment.
            group: processes that share the batch.
            tempo_share: share of the clips that are drawn at a random tempo.

        Returns:
            This process's part of the batch, N = clips * segments in all.
        """
        drawn = self.sampler.draw(rng, clips, segments, length, tempo_share)
        return self.segments(group.shard(drawn.clip), group.shard(drawn.start), length, group.shard(drawn.tempo))

    def segments(
        self, clip: NDArray[np.int64], start: NDArray[Any], length: int, tempo: Array | float = 1.0
    ) -> SegmentBatch:
        """Gather given segments; values between two frames, or two audio steps, are interpolated.

        Args:
            clip: (N,) indices of clips.
            start: (N,) first frames.
            length: frames L of a segment.
            tempo: (N,) frames of the clip per frame of the segment, or one for all.
        """
        tempo = np.broadcast_to(np.asarray(tempo, float), start.shape).copy()
        # windows begin at frames of the segment, which at another tempo lie between frames of the clip
        window = start[:, None] + np.arange(length - WINDOW_FRAMES + 1) * tempo[:, None]
        voiced = self.store.voiced[self.store.first_frame[clip, None] + window.astype(int)]
        return SegmentBatch(
            visual=self._visual(clip, start, length, tempo),
            audio=self._audio(clip, start, length, tempo),
            clip=torch.from_numpy(clip),
            speaker=torch.from_numpy(self.speaker[clip]),
            start=torch.from_numpy(start),
            tempo=torch.from_numpy(tempo),
            silent=torch.from_numpy(~voiced),
            length=length,
        )

    def draw_pairs(
        self, rng: np.random.Generator, sampling: PairSampling, count: int, group: ProcessGroup = ALONE
    ) -> PairBatch:
        """Draw random pairs of single windows: this process's part of ``count``."""
        drawn = self.sampler.draw_pairs(rng, sampling, count)
        kind, clip, start, audio_clip, audio_start = (group.shard(values) for values in drawn)
        first = self.store.first_frame
        silent = ~self.store.voiced[first[clip] + start] & ~self.store.voiced[first[audio_clip] + audio_start]
        tempo = np.ones(len(clip))
        visual = self._visual(clip, start, WINDOW_FRAMES, tempo)
        audio = self._audio(audio_clip, audio_start, WINDOW_FRAMES, tempo)
        return PairBatch(visual, audio, torch.from_numpy(kind), torch.from_numpy(silent))

    def draw_views(self, rng: np.random.Generator, count: int, group: ProcessGroup = ALONE) -> AlignerBatch:
        """Draw face views for the mouth aligner: this process's part of ``count``."""
        clip, view = (group.shard(index) for index in self.sampler.draw_views(rng, count, VIEWS))
        views = rearrange(torch.from_numpy(self.store.per_clip["views"][clip, view]), "n h w c -> n c h w")
        return AlignerBatch(views.float() / 255, torch.from_numpy(self.store.per_clip["poses"][clip, view]))

    def _visual(self, clip: NDArray[np.int64], start: NDArray[Any], length: int, tempo: Array) -> VisualFrames:
        arrays = self.store.gather_frames(clip, start, length, tempo)
        if "clip_mean" in self.store.per_clip:
            arrays["clip_mean"] = torch.from_numpy(self.store.per_clip["clip_mean"][clip])[:, None]
        return self._visual_frames(**arrays)

    def _audio(self, clip: NDArray[np.int64], start: NDArray[Any], length: int, tempo: Array) -> Tensor:
        per_frame = float(self.config.steps_per_frame)
        steps = self.config.first_step(length - WINDOW_FRAMES) + self.config.window_steps
        # at tempo 1, windows start where encode_audio has them, at floor(3.2 f) for mel
        first = np.where(tempo == 1, np.floor(start * per_frame), start * per_frame)
        audio = self.store.gather_audio(clip, first, steps, tempo)
        return rearrange(audio, "n m f -> n f m") if self.config.audio == "mel" else audio
