"""Clip that the demonstration trains and measures on.

Axes: B windows, T frames, N frames of a batch, L audio steps, F audio features.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLES_PER_FRAME, STEP_RATE, WINDOW_STEPS
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.representations import mel_spectrogram
from unisync_loss.utils.image import resize
from unisync_loss.video.clip import read_clip
from unisync_loss.video.reading import read_clip_isolated
from unisync_loss.video.voicing import SILENCE, levels

SIZE = 96  # pixels, that of Wav2Lip
MIN_SECONDS, MAX_SECONDS = 3.5, 20.0
TRAIN_SHARE = 0.7
GAP = 5  # frames between training and held-out part, so that no mel window reaches across
REFERENCE_FRAMES = 6  # averaged to the reference
REFERENCE_GAP = 8  # least distance of these from their target, in frames


class DemoClip(NamedTuple):
    """A clip with the inputs of generator and expert."""

    frames: Tensor  # RGB (T, 3, 96, 96) in [0, 1]
    references: Tensor  # (T, 3, 96, 96), see references_of
    mel: Tensor  # (80, L), input of the generator
    audio_input: Tensor  # (L, F), audio features of the expert
    audio: str  # representation of these
    waveform: NDArray[np.float32]  # (640 · T,) at 16 kHz
    train: range  # frames to train on
    held: range  # later frames, held out


def load_demo_clip(video: Path, expert: UniSyncExpert) -> DemoClip:
    """Read the first 20 s of a clip, split it in time and compute the inputs of generator and expert.

    Raises:
        ValueError: for a clip that cannot be decoded, is shorter than 3.5 s, is far from square, or is silent or still
            in either part; for an expert on another visual representation than RGB.
        FileNotFoundError: when there is no such file.
    """
    if expert.visual_input.needs_mesh:
        raise ValueError(f"expected an expert on rgb, got {expert.config.name}")
    clip = read_clip_isolated(partial(read_clip, max_frames=round(MAX_SECONDS * FPS)), video)
    total, height, width = clip.frames.shape[:3]
    if not 0.66 < width / height < 1.5:
        raise ValueError(f"{video}: expected a crop around one face, about square, got {width} x {height} pixels")
    if total < MIN_SECONDS * FPS:
        raise ValueError(f"{video}: expected at least {MIN_SECONDS} s of video, got {total / FPS:.1f} s")
    chunks = [torch.from_numpy(clip.frames[start : start + 50]) for start in range(0, total, 50)]  # for memory
    small = [resize(rearrange(chunk, "t h w c -> t c h w").float() / 255, SIZE, SIZE).clamp(0, 1) for chunk in chunks]
    frames, (train, held) = torch.cat(small), split_time(total)
    for name, part in (("first", train), ("last", held)):
        audio = clip.waveform[part.start * SAMPLES_PER_FRAME : part.stop * SAMPLES_PER_FRAME]
        if levels(audio, audio.size)[0] < SILENCE:
            raise ValueError(f"{video}: expected speech throughout, got silence in the {name} {len(part) / FPS:.1f} s")
        motion = F.avg_pool2d(frames[part.start : part.stop].std(dim=0), 4).max()
        if motion < 2e-2:  # compression noise alone stays below
            raise ValueError(f"{video}: expected a moving face, got a still one in the {name} {len(part) / FPS:.1f} s")
    waveform = torch.from_numpy(clip.waveform)[None]
    with torch.no_grad():
        audio_input = expert.audio_input(waveform)[0]
    mel, references = mel_spectrogram(waveform)[0], references_of(frames, train)
    return DemoClip(frames, references, mel, audio_input, expert.config.audio, clip.waveform, train, held)


def split_time(frames: int) -> tuple[range, range]:
    """Split a clip into training frames and later, held-out frames, with a gap between them."""
    boundary = round(frames * TRAIN_SHARE)
    return range(boundary), range(boundary + GAP, frames)


def references_of(frames: Tensor, train: range) -> Tensor:
    """Average, for each of the frames (T, 3, 96, 96), the six training frames of the most similar upper half.

    The reference of Wav2Lip is one frame of another time, which takes long training to move into place. Frames within
    8 of the target are left out; the mean of several mouths does not reveal that of the target.
    """
    upper = rearrange(F.avg_pool2d(frames[:, :, : SIZE // 2], 4), "t c h w -> t (c h w)")
    distance = torch.cdist(upper, upper[train.start : train.stop])
    apart = (torch.arange(len(frames))[:, None] - torch.tensor(train)).abs()
    nearest = distance.masked_fill(apart < REFERENCE_GAP, torch.inf).topk(REFERENCE_FRAMES, largest=False).indices
    return reduce(frames[nearest + train.start], "t k c h w -> t c h w", "mean")


def mel_around(mel: Tensor, frames: Tensor) -> Tensor:
    """Cut 0.2 s of mel (80, L) centred on each frame, (N, 1, 80, 16); moved inwards at the ends of the clip.

    Frame numbers (N,) may be fractional.
    """
    steps = WINDOW_STEPS["mel"]
    middles = (frames + 0.5) * (STEP_RATE["mel"] / FPS)
    starts = (middles - steps / 2).round().long().clamp(0, mel.shape[1] - steps)
    return rearrange(mel[:, starts[:, None] + torch.arange(steps)], "f n l -> n 1 f l")


def audio_windows(clip: DemoClip, starts: Tensor) -> Tensor:
    """Cut the expert's audio features at first frames (B,) into windows: mel (B, 80, 16), others (B, 10, F)."""
    first = starts * STEP_RATE[clip.audio] // FPS
    windows = clip.audio_input[first[:, None] + torch.arange(WINDOW_STEPS[clip.audio])]
    return rearrange(windows, "b l f -> b f l") if clip.audio == "mel" else windows
