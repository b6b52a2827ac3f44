"""Measurements of one clip that show whether it is fit for training: file, audio, face, colour, movement."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.curation.duplicates import GRID, shrink_frames
from unisync_loss.data.clips import ClipEntry, shift_audio
from unisync_loss.data.store import read_window
from unisync_loss.models.mouth_aligner import sample_mouth
from unisync_loss.video.clip import Clip, read_clip
from unisync_loss.video.decoding import audio_stream, open_media, read_facts, video_stream
from unisync_loss.video.face_mesh import pose_of_mesh
from unisync_loss.video.voicing import levels, voiced_by_level

HEAD = 40 * FPS  # frames of a long clip that are measured
_SHORT_SIDE = 256  # pixels; larger frames are shrunk
_PORTRAIT = 48  # pixels
_PORTRAIT_SIDE = 2.4  # side of a portrait in distances between the eyes: brows to neck
_MOUTH = (slice(19, 28), slice(17, 31))  # rows and columns of a portrait: lips, also open ones
_SKIN = (50, 280, 205, 425, 151, 9)  # landmarks of the mesh: cheeks, forehead
_LEAP = 6  # frames between which movement is measured
_SLICE, _STEP = 1024, 256  # samples of a spectrum, and between two
_HELD_SPECTRA = 21  # spectra, a third of a second: a note is held that long, the harmonics of a vowel glide

Picture = NDArray[np.uint8]
Array = NDArray[np.float64]


def read_head(entry: ClipEntry) -> Clip:
    """Decode the first 40 s of a clip, with its stored offset corrected and large frames shrunk to 256 pixels.

    Raises:
        ValueError: when it cannot be decoded, or is shorter than a window or smaller than 16 pixels.
    """
    if entry.record is not None:
        clip = read_window(entry.record, 0, min(entry.record.frames, HEAD))
    else:
        clip = read_clip(entry.path, max_frames=HEAD, short_side=_SHORT_SIDE)
    clip = shift_audio(clip, entry.offset)
    if len(clip.frames) < WINDOW_FRAMES:
        raise ValueError(f"{entry.path}: expected at least {WINDOW_FRAMES} frames, got {len(clip.frames)}")
    if min(clip.frames.shape[1:3]) < GRID:
        raise ValueError(f"{entry.path}: expected frames of at least {GRID} pixels, got {clip.frames.shape[1:3]}")
    return clip


def measure_file(entry: ClipEntry) -> dict[str, Any]:
    """Read the header of a file; ``seconds_video`` and ``seconds_audio`` only where the streams hold a duration.

    Raises:
        ValueError: when it cannot be decoded, or lacks a video or an audio stream.
    """
    facts = read_facts(entry.path)._asdict()
    facts["fps"] = round(facts["fps"], 3)
    del facts["zero"], facts["seconds"]
    with open_media(entry.path) as container:
        for name, stream in (("video", video_stream(container)), ("audio", audio_stream(container))):
            if stream.duration and stream.time_base:
                facts[f"seconds_{name}"] = round(float(stream.duration * stream.time_base), 3)
    return facts


def measure_audio(waveform: NDArray[np.float32]) -> dict[str, float]:
    """Measure a waveform (S,) at 16 kHz.

    Returns:
        ``level``: RMS at the 90th percentile of the frames; ``silence``: share of frames without voice; ``held``: share
        of the energy in tones held for a third of a second, the harmonic part of FitzGerald, "Harmonic/percussive
        separation using median filtering" (DAFx 2010); ``pauses``: share of 10 ms slices below a third of the mean
        level, which speech has more of than music.
    """
    level = levels(waveform, SAMPLES_PER_FRAME)
    fine = levels(waveform, SAMPLE_RATE // 100)
    return {
        "level": round(float(np.percentile(level, 90)), 5),
        "silence": round(1 - float(voiced_by_level(level).mean()), 3),
        "held": round(_held_share(waveform), 3),
        "pauses": round(float((fine < 0.3 * fine.mean()).mean()), 3),
    }


def _held_share(waveform: NDArray[np.float32]) -> float:
    from scipy.ndimage import median_filter  # of the video extra

    if waveform.size < _SLICE + _HELD_SPECTRA * _STEP:
        return 0.0
    slices = np.lib.stride_tricks.sliding_window_view(waveform, _SLICE)[::_STEP]
    spectrum = np.abs(np.fft.rfft(slices * np.hanning(_SLICE)))[:, 6:260].astype(np.float32)  # 94 to 4060 Hz
    total = spectrum.sum(1)
    loud = total > 0.5 * np.median(total)
    if not loud.any():
        return 0.0
    held = median_filter(spectrum, (_HELD_SPECTRA, 1))
    return float((held[loud] ** 2).sum() / (spectrum[loud] ** 2).sum())


class FaceMeasurements(NamedTuple):
    """Measurements of the face of a clip.

    Attributes:
        facts: ready for JSON.
        portrait: (24, 24, 3) mean of the upright face, brows to neck, in levels; None without a face.
    """

    facts: dict[str, float]
    portrait: NDArray[np.float32] | None


def measure_face(frames: Picture, mesh: NDArray[np.float32]) -> FaceMeasurements:
    """Measure coverage, size, colour and movement of a face.

    Args:
        frames: (T, H, W, 3) RGB, every second one of a clip.
        mesh: (T, 468, 2) of :func:`unisync_loss.video.face_mesh.face_mesh`, NaN where no face was found.

    Returns:
        ``face_found``: share of the frames; ``face_width`` and ``face_height``: as shares of the frame;
        ``face_outside``: share of the landmarks outside the frame; ``red_less_blue``: red minus blue of the skin, in
        levels; ``mouth_moves``: change of the lips in 0.24 s over their contrast, head movement removed.
    """
    found = ~np.isnan(mesh).any((1, 2))
    facts = {"face_found": round(float(found.mean()), 3)}
    if not found.any():
        return FaceMeasurements(facts, None)
    frames, mesh = frames[found], mesh[found]
    width, height = (mesh.max(1) - mesh.min(1)).mean(0)
    facts |= {
        "face_width": round(float(width), 3),
        "face_height": round(float(height), 3),
        "face_outside": round(float(((mesh < 0) | (mesh > 1)).any(-1).mean()), 3),
        "red_less_blue": round(_skin(frames, mesh), 1),
    }
    pose = torch.from_numpy(pose_of_mesh(mesh, (frames.shape[1], frames.shape[2])))
    images = rearrange(torch.from_numpy(frames), "t h w c -> t c h w").float()
    portraits = rearrange(sample_mouth(images, pose, size=_PORTRAIT, side=_PORTRAIT_SIDE).numpy(), "t c h w -> t h w c")
    lips = portraits[:, _MOUTH[0], _MOUTH[1]].mean(-1)
    step = _LEAP // 2
    change = np.abs(lips[step:] - lips[:-step]).mean() if len(lips) > step else 0.0
    facts["mouth_moves"] = round(float(change / max(1.0, lips.mean(0).std())), 3)
    return FaceMeasurements(facts, shrink_frames(portraits.mean(0, keepdims=True), _PORTRAIT // 2)[0])


def _skin(frames: Picture, mesh: NDArray[np.float32]) -> float:
    """Median of red minus blue over cheeks and forehead, in levels; 0 where they lie outside the frame."""
    height, width = frames.shape[1:3]
    points = (mesh[:, _SKIN] * np.array([width, height])).astype(int)
    inside = ((points >= 0) & (points < np.array([width, height]))).all(-1)
    number = np.broadcast_to(np.arange(len(frames))[:, None], inside.shape)
    colours = frames[number[inside], points[inside][:, 1], points[inside][:, 0]].astype(np.float64)
    return float(np.median(colours[:, 0] - colours[:, 2])) if len(colours) else 0.0


def measure_movement(cells: NDArray[np.float32]) -> dict[str, float]:
    """Measure the movement of frames shrunk to cells (T, G, G, 3).

    Returns:
        ``moves``: median over time of the largest change of a cell in 0.24 s, in levels; ``repeats``: share of the
        frames that equal the one before.
    """
    step = np.abs(np.diff(cells, axis=0)).max((1, 2, 3))
    leap = np.abs(cells[_LEAP:] - cells[:-_LEAP]).mean(-1).max((1, 2)) if len(cells) > _LEAP else np.zeros(1)
    return {
        "moves": round(float(np.median(leap)), 3),
        "repeats": round(float((step < 0.01).mean()) if len(step) else 0.0, 3),
    }
