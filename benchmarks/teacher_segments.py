"""Segments of clips with late audio and the frames that fit it; mouth region and lip opening by the face mesh."""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.data import ClipEntry, load_clip
from unisync_loss.utils.image import resize
from unisync_loss.video.face_mesh import face_mesh, fill_gaps

SIDE = 96  # pixels of the frames, as Wav2Lip's generators make them
LATE = 8  # frames by which the audio is late
NOISE = 8 / 255  # radius of the attack whose effect on the lips is measured
BLOCK = 8  # pixels; the mouth region is made of whole blocks
#: mesh points: middle of the inner lips, upper and lower; outer corners of the eyes; corners of the mouth
INNER_LIPS, EYES, CORNERS = ((82, 13, 312), (87, 14, 317)), (33, 263), (61, 291)
NOSE_BASE, CHIN = 2, 152


@dataclass(frozen=True)
class Segment:
    """Consecutive frames of a clip.

    Attributes:
        entry: the clip.
        waveform: (1, 640 N) of the whole clip.
        frames: number N of its frames.
        start: first frame of the segment.
        given: (T, 3, 96, 96) frames in [0, 1].
        wanted: (T, 3, 96, 96) frames that fit audio that is late by :data:`LATE` frames.
        mouth: rows and columns of the mouth region in both.
        opening: (T,) lip opening of the given frames with random noise, see :func:`lip_opening`.
        opening_wanted: (T,) change of the lip opening from the given to the wanted frames, in the clip's resolution.
    """

    entry: ClipEntry
    waveform: Tensor
    frames: int
    start: int
    given: Tensor
    wanted: Tensor
    mouth: tuple[slice, slice]
    opening: NDArray[np.float32]
    opening_wanted: NDArray[np.float32]

    @property
    def seed(self) -> int:
        """Of the random numbers of this clip, the same for every expert."""
        return zlib.crc32(self.entry.name.encode())


def draw_order(entries: Sequence[ClipEntry], seed: int) -> list[ClipEntry]:
    """Clips in random order, one of every speaker before the second of any."""
    shuffled = [entries[place] for place in np.random.default_rng(seed).permutation(len(entries))]
    turns: Counter[str] = Counter()
    ranks = []
    for entry in shuffled:
        ranks.append(turns[entry.speaker])
        turns[entry.speaker] += 1
    return [shuffled[place] for place in np.argsort(ranks, kind="stable")]


def choose_segments(entries: Sequence[ClipEntry], clips: int, frames: int, seed: int) -> list[Segment]:
    """Cut one segment out of each of ``clips`` clips; those that are too short or show no face are replaced.

    Raises:
        ValueError: when there is none.
    """
    segments: list[Segment] = []
    for entry in draw_order(entries, seed):
        if len(segments) == clips:
            break
        try:
            segments.append(cut_segment(entry, frames, seed))
        except ValueError as error:
            print(f"skipped {entry.name}: {error}", file=sys.stderr)
    if not segments:
        raise ValueError(f"expected clips of at least {frames + LATE} frames that show a face, got none")
    return segments


def cut_segment(entry: ClipEntry, frames: int, seed: int) -> Segment:
    """Cut a segment at a random place.

    Args:
        entry: the clip.
        frames: T.
        seed: of the place, together with the name of the clip.

    Raises:
        ValueError: for a clip that cannot be read or is too short, or without a face in more than a fifth of the
            frames.
    """
    clip = load_clip(entry)
    last = len(clip.frames) - frames
    if last < LATE:
        raise ValueError(f"expected at least {frames + LATE} frames, got {len(clip.frames)}")
    start = int(np.random.default_rng([seed, zlib.crc32(entry.name.encode())]).integers(LATE, last + 1))
    parts = [clip.frames[first : first + frames] for first in (start, start - LATE)]
    meshes = [fill_gaps(face_mesh(part)) for part in parts]
    given, wanted = (_small(part) for part in parts)
    # The change of an attack is measured from frames with as much noise, and the wanted change from other pixels. From
    # the same frames, errors of the mesh in the given ones would be in both changes and correlate them.
    opening = measure_opening(add_noise(given, zlib.crc32(entry.name.encode())))
    opening_wanted = lip_opening(meshes[1]) - lip_opening(meshes[0])
    waveform = torch.from_numpy(clip.waveform)[None]
    mouth = mouth_region(np.concatenate(meshes))
    return Segment(entry, waveform, len(clip.frames), start, given, wanted, mouth, opening, opening_wanted)


def _small(frames: NDArray[np.uint8]) -> Tensor:
    return resize(rearrange(torch.from_numpy(frames), "t h w c -> t c h w").float() / 255, SIDE, SIDE)


def add_noise(video: Tensor, seed: int) -> Tensor:
    """Frames, every value of which is raised or lowered at random by :data:`NOISE`, kept in [0, 1]."""
    signs = torch.randint(2, video.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (video + NOISE * signs).clamp(0, 1)


def to_bytes(video: Tensor) -> NDArray[np.uint8]:
    """Frames (T, 3, H, W) in [0, 1] → (T, H, W, 3)."""
    frames: NDArray[np.uint8] = rearrange((255 * video).round().byte(), "t c h w -> t h w c").numpy()
    return frames


def mouth_region(mesh: NDArray[np.float32]) -> tuple[slice, slice]:
    """Rows and columns of whole blocks that cover the mouth in all frames.

    Args:
        mesh: (T, 468, 2) as fractions of width and height.

    Returns:
        Nose base to chin, and a quarter of the mouth's width beyond its corners.
    """
    left, right = mesh[:, CORNERS[0], 0].min(), mesh[:, CORNERS[1], 0].max()
    margin = (right - left) / 4
    rows = _blocks(mesh[:, NOSE_BASE, 1].min(), mesh[:, CHIN, 1].max())
    return rows, _blocks(left - margin, right + margin)


def _blocks(low: float, high: float) -> slice:
    blocks = SIDE // BLOCK
    first = min(max(0, int(np.floor(low * blocks))), blocks - 1)
    return slice(BLOCK * first, BLOCK * max(first + 1, min(blocks, int(np.ceil(high * blocks)))))


def measure_opening(video: Tensor) -> NDArray[np.float32]:
    """Lip opening in frames (T, 3, 96, 96): (T,), NaN where no face was found."""
    return lip_opening(face_mesh(to_bytes(video)))


def lip_opening(mesh: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of the inner lips over that of the outer corners of the eyes: mesh (T, 468, 2) → (T,)."""
    upper, lower = (mesh[:, list(points)].mean(1) for points in INNER_LIPS)
    eyes = mesh[:, EYES[1]] - mesh[:, EYES[0]]
    opening: NDArray[np.float32] = np.linalg.norm(lower - upper, axis=-1) / np.linalg.norm(eyes, axis=-1)
    return opening
