"""The demonstration's clip: what is seen and heard of it, and how it looks to a person.

Axes: T frames, N frames of a batch, L mel steps, P points, E coefficients.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.aligner import resize
from unisync_loss.config import FPS, SAMPLES_PER_FRAME, STEP_RATE, WINDOW_STEPS, UniSyncConfig
from unisync_loss.expert import UniSyncExpert
from unisync_loss.face_model import landmarks_of_expression
from unisync_loss.media import read_clip
from unisync_loss.providers import check_provided, visual_of_frames
from unisync_loss.representations import mel_spectrogram, visual_input
from unisync_loss.representations.landmark_tables import IBUG_68
from unisync_loss.representations.landmarks import normalise_landmarks

SIZE = 96  # pixels, Wav2Lip's
MIN_SECONDS, MAX_SECONDS = 3.5, 20.0
TRAIN_SHARE = 0.7
GAP = 5  # frames between training and held-out part: no mel window reaches across
REFERENCE_FRAMES = 6  # of which the reference is the mean
REFERENCE_GAP = 8  # frames between a target and what makes its reference
#: lines of a face among iBUG's 68, as first and last point and whether the line is closed; the mouth's are the last two
LINES = (
    (0, 16, False), (17, 21, False), (22, 26, False), (27, 30, False), (31, 35, False),
    (36, 41, True), (42, 47, True), (48, 59, True), (60, 67, True),
)  # fmt: skip
MOUTH_LINES = 2
#: colours of the parsing groups: other, skin, nose, upper lip, lower lip, mouth
PALETTE = (
    (0.93, 0.94, 0.95), (0.91, 0.76, 0.65), (0.86, 0.69, 0.57),
    (0.80, 0.36, 0.40), (0.87, 0.45, 0.48), (0.25, 0.08, 0.10),
)  # fmt: skip


class Material(NamedTuple):
    """A clip ready for the generator.

    Attributes:
        visual: what the generator makes, a visual representation.
        frames: of that representation: RGB (T, 3, 96, 96) in [0, 1], probabilities (T, 6, 96, 96), normalised landmarks
            (T, P, 2 or 3) or coefficients (T, E).
        references: the same of other times: see :func:`references_of`; of landmarks and coefficients the training mean.
        mel: (80, L) of the whole clip, what drives the generator.
        heard: (L, F) of the whole clip, what the expert hears.
        audio: the expert's audio representation.
        waveform: (640 · T,) at 16 kHz.
        train: frames to train on.
        held: later frames, never trained on.
    """

    visual: str
    frames: Tensor
    references: Tensor
    mel: Tensor
    heard: Tensor
    audio: str
    waveform: NDArray[np.float32]
    train: range
    held: range


def load_material(video: Path, expert: UniSyncExpert) -> Material:
    """Read a clip, make of it what an expert sees and hears, and split it in time.

    Args:
        video: a clip of one face of at least 3.5 s; the first 20 s are used.
        expert: on the CPU.

    Returns:
        The clip and its split.

    Raises:
        ValueError: when it is too short, silent or still in either part, no face crop, or cannot be decoded; for an
            expert whose visual representation cannot be made from video.
        FileNotFoundError: when there is no such file.
    """
    config = expert.config
    if config.visual != "rgb":
        check_provided(config)
    clip = read_clip(video, max_frames=round(MAX_SECONDS * FPS))
    total, height, width = clip.frames.shape[:3]
    if not 0.66 < width / height < 1.5:
        raise ValueError(f"{video}: expected a crop around one face, about square, got {width} x {height} pixels")
    if total < MIN_SECONDS * FPS:
        raise ValueError(f"{video}: expected at least {MIN_SECONDS} s of video, got {total / FPS:.1f} s")
    pieces = [torch.from_numpy(clip.frames[start : start + 50]) for start in range(0, total, 50)]
    small = [resize(rearrange(piece, "t h w c -> t c h w").float() / 255, SIZE, SIZE).clamp(0, 1) for piece in pieces]
    colours, (train, held) = torch.cat(small), split_time(total)
    for name, part in (("first", train), ("last", held)):
        sound = clip.waveform[part.start * SAMPLES_PER_FRAME : part.stop * SAMPLES_PER_FRAME]
        if float(np.sqrt(np.mean(sound**2))) < 1e-3:  # -60 dB
            raise ValueError(f"{video}: expected speech throughout, got silence in the {name} {len(part) / FPS:.1f} s")
        if (
            F.avg_pool2d(colours[part.start : part.stop].std(dim=0), 4).max() < 2e-2
        ):  # what compression alone stays below
            raise ValueError(f"{video}: expected a moving face, got a still one in the {name} {len(part) / FPS:.1f} s")
    frames = colours if config.visual == "rgb" else _measured(config, clip.frames)
    if is_map(config.visual):
        references = references_of(frames, train)
    else:
        references = frames[: train.stop].mean(0, keepdim=True).expand_as(frames)
    waveform = torch.from_numpy(clip.waveform)[None]
    mel = mel_spectrogram(waveform)[0]
    with torch.no_grad():
        heard = expert.audio_input(waveform)[0]
    return Material(config.visual, frames, references, mel, heard, config.audio, clip.waveform, train, held)


def is_map(visual: str) -> bool:
    """Whether a representation is a picture, of which the lower half is drawn, or numbers, of which all are."""
    return visual in ("rgb", "parsing")


def _measured(config: UniSyncConfig, frames: NDArray[np.uint8]) -> Tensor:
    seen = visual_of_frames(config, frames)[0]
    if config.visual == "parsing":
        return resize(visual_input(config)(seen[None])[0], SIZE, SIZE)
    return normalise_landmarks(seen) if config.visual == "landmarks" else seen


def split_time(frames: int) -> tuple[range, range]:
    """Split a clip into a first part to train on and a later one to measure on, with a gap between.

    Returns:
        Frames of either part.
    """
    boundary = round(frames * TRAIN_SHARE)
    return range(boundary), range(boundary + GAP, frames)


def references_of(frames: Tensor, train: range) -> Tensor:
    """Find how the person looks in the pose of each frame, whatever is said.

    Wav2Lip's reference is one frame of another time, and moving it into place takes long training. The upper half
    tells the pose, so here it is the mean of the training frames whose upper halves are most alike, of other times
    too; the mean of several mouths gives away nothing of what is said.

    Args:
        frames: (T, C, 96, 96).
        train: frames that may be used.

    Returns:
        (T, 3, 96, 96).
    """
    looks = rearrange(F.avg_pool2d(frames[:, :, : SIZE // 2], 4), "t c h w -> t (c h w)")
    distance = torch.cdist(looks, looks[train.start : train.stop])
    apart = (torch.arange(len(frames))[:, None] - torch.tensor(train)).abs()
    nearest = distance.masked_fill(apart < REFERENCE_GAP, torch.inf).topk(REFERENCE_FRAMES, largest=False).indices
    return reduce(frames[nearest + train.start], "t k c h w -> t c h w", "mean")


def mel_around(mel: Tensor, frames: Tensor) -> Tensor:
    """Cut the 0.2 s of mel in whose middle a frame lies.

    Args:
        mel: (80, L).
        frames: (N,) frame numbers.

    Returns:
        (N, 1, 80, 16); moved inwards at the ends of the clip.
    """
    steps = WINDOW_STEPS["mel"]
    middles = (frames + 0.5) * (STEP_RATE["mel"] / FPS)
    starts = (middles - steps / 2).round().long().clamp(0, mel.shape[1] - steps)
    return rearrange(mel[:, starts[:, None] + torch.arange(steps)], "f n l -> n 1 f l")


def heard_in(material: Material, starts: Tensor) -> Tensor:
    """Cut what the expert hears in windows out of the whole clip: as when it slides over a recording.

    Args:
        material: the clip.
        starts: (B,) first frames.

    Returns:
        (B, 80, 16) mel or (B, 10, F) HuBERT.
    """
    first = starts * STEP_RATE[material.audio] // FPS
    windows = material.heard[first[:, None] + torch.arange(WINDOW_STEPS[material.audio])]
    return rearrange(windows, "b l f -> b f l") if material.audio == "mel" else windows


def heard_whole(material: Material) -> Tensor:
    """All that the expert hears, as it takes it: (1, 80, L) mel or (1, L, F) HuBERT."""
    return material.heard.T[None] if material.audio == "mel" else material.heard[None]


def to_colours(visual: str, frames: Tensor) -> Tensor:
    """How frames of any representation look to a person.

    Args:
        visual: the representation.
        frames: see :class:`Material`.

    Returns:
        (T, 3, 96, 96) RGB in [0, 1].
    """
    if visual == "rgb":
        return frames
    if visual == "parsing":
        return torch.einsum("tghw,gc->tchw", frames, torch.tensor(PALETTE))
    points = landmarks_of_expression(frames) if visual == "3dmm" else frames
    return _drawing(points)


def _drawing(points: Tensor) -> Tensor:
    """Lines of faces (T, P, 2 or 3) in dark, the lips' in red, on white: (T, 3, 96, 96)."""
    points = points[:, list(IBUG_68), :2] if points.shape[1] > 68 else points[:, :, :2]
    lines = LINES if points.shape[1] == 68 else tuple((a - 48, b - 48, c) for a, b, c in LINES[-MOUTH_LINES:])
    places = points * 44 + torch.tensor([48.0, 26.0])  # pixels; between the eyes, and the mouth below the middle
    face, lips = (_ink(places, group) for group in (lines[:-MOUTH_LINES], lines[-MOUTH_LINES:]))
    return 1 - 0.85 * torch.stack([face + 0.2 * lips, face + lips, face + lips], dim=1).clamp(max=1)


def _ink(places: Tensor, lines: tuple[tuple[int, int, bool], ...]) -> Tensor:
    """How dark lines through places (T, P, 2) make each pixel, (T, 96, 96) in [0, 1]."""
    dots = [places[:, :0]]
    for first, last, closed in lines:
        ring = places[:, [*range(first, last + 1), *([first] if closed else [])]]
        dots += [torch.lerp(ring[:, :-1], ring[:, 1:], share / 6) for share in range(6)]
    pixels = torch.arange(SIZE) + 0.5
    x, y = ((-(pixels - axis[..., None]).square() / 2.5).exp() for axis in torch.cat(dots, dim=1).unbind(2))
    return 1 - torch.exp(-1.5 * torch.einsum("tny,tnx->tyx", y, x))
