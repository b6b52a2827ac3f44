"""Parts of the clip cache: what is stored of a clip for training, and how a dataset reads it.

``mouth`` serves small experts on rgb: mouth crops, mouth points, a few whole faces and their poses. ``mesh`` serves
experts on landmarks, parsing maps and coefficients: MediaPipe's face mesh, from which all three are made. ``crop``
serves the ``paper`` architecture on rgb: whole face crops. ``coefficients``, ``mouth_maps`` and ``maps``
serve experts on 3dmm and parsing whose features a store has (``unisync prepare --features``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import ClipEntry, clip_features, clip_mesh, decode_clip
from unisync_loss.data.store import read_waveform
from unisync_loss.models.mouth_aligner import sample_mouth
from unisync_loss.models.small import MOUTH_SIZE
from unisync_loss.representations.parsing import ParsingInput, mouth_of_maps
from unisync_loss.training.data.augment import CUT_SIDE
from unisync_loss.training.data.face_features import MESH_CENTRE, features_of_mesh
from unisync_loss.training.data.stored_features import stored_width
from unisync_loss.training.data.visual_frames import FaceCrops, FaceFeatures, MouthFrames, ParsingMaps, VisualFrames
from unisync_loss.utils.image import resize
from unisync_loss.video.clip import Clip
from unisync_loss.video.extraction import MAP_SIZE
from unisync_loss.video.face_mesh import mouth_of_mesh, pose_of_mesh
from unisync_loss.video.face_tracking import CROP_SIZE

CUT_SIZE = 80  # pixels of a mouth crop, with margin for the trainer to shift, scale and rotate it
VIEW_SIZE = 96  # pixels of a face view, for the mouth aligner and for `paper` on rgb, as Wav2Lip
VIEWS = 8  # face views stored per clip; neighbouring frames show nearly the same pose
_SMOOTHING = 2  # frames on either side over which the measured pose is averaged
_CHUNK_FRAMES = 256  # resized at a time: bounds the memory of float32 frames

Arrays = dict[str, NDArray[Any]]


class ClipSource:
    """A clip to be cached; what a store has is read, the rest is computed on first use.

    Args:
        entry: the clip.

    Raises:
        ValueError: by the properties, when the clip cannot be decoded or more than a fifth of its frames show no face.
    """

    def __init__(self, entry: ClipEntry) -> None:
        self.entry = entry

    @cached_property
    def clip(self) -> Clip:
        """Frames (T, H, W, 3) uint8 and waveform (640 T,) float32, offset not applied."""
        return decode_clip(self.entry)

    @cached_property
    def waveform(self) -> NDArray[np.float32]:
        """Waveform (640 T,); of a store, no frame is decoded for it."""
        record = self.entry.record
        return self.clip.waveform if record is None else read_waveform(record, 0, record.frames)

    @cached_property
    def mesh(self) -> NDArray[np.float32]:
        """Face mesh (T, 468, 3) as shares of width, height and width."""
        stored = self.entry.record is not None
        return clip_mesh(self.entry, None if stored else self.clip.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        if self.entry.record is not None:
            return CROP_SIZE, CROP_SIZE
        return self.clip.frames.shape[1], self.clip.frames.shape[2]


@dataclass(frozen=True)
class CachePart:
    """One part of the cache.

    Attributes:
        measure: makes the arrays to store, among them ``waveform`` (640 T,).
        read: makes of stored arrays, the config and the frames to use the arrays per frame (L, …) and per clip (…).
        frames: takes the gathered arrays per frame, and ``clip_mean`` where there is one.
        also: parts to store at the same time, because they cost little once this one is measured.
    """

    measure: Callable[[ClipSource], Arrays]
    read: Callable[[UniSyncConfig, Arrays, slice], tuple[Arrays, Arrays]]
    frames: Callable[..., VisualFrames]
    also: tuple[str, ...] = ()


def measure_mouth(source: ClipSource) -> Arrays:
    """Mouth crops, mouth points, face views and poses.

    Returns:
        ``cuts`` (T, 80, 80, 3) uint8 mouth crops at the measured pose; ``points`` (T, 52, 2) mouth points in template
        coordinates; ``views`` (8, 96, 96, 3) uint8 whole faces; ``poses`` (8, 2, 3) their poses; ``waveform``.
    """
    clip, mesh = source.clip, source.mesh[:, :, :2]
    pose = _smooth(pose_of_mesh(mesh, source.size))
    frames = rearrange(torch.from_numpy(clip.frames), "t h w c -> t c h w").float()
    cuts = sample_mouth(frames, torch.from_numpy(pose), size=CUT_SIZE, side=CUT_SIDE)
    kept = np.linspace(0, len(frames) - 1, VIEWS).round().astype(int)
    return {
        "cuts": _to_bytes(cuts),
        "points": mouth_of_mesh(mesh, pose),
        "views": _to_bytes(resize(frames[kept], VIEW_SIZE, VIEW_SIZE)),
        "poses": pose[kept],
        "waveform": clip.waveform,
    }


def measure_mesh(source: ClipSource) -> Arrays:
    """Face mesh.

    Returns:
        ``mesh`` (T, 468, 3) float16, shares of width, height and width, minus :data:`MESH_CENTRE`; ``size`` (2,) height
        and width of the frames in pixels; ``waveform``.
    """
    # between 0.5 and 1, float16 has steps of 1/2048, 0.09 pixels of a crop of 192; around 0 they are finer
    mesh = (source.mesh - np.asarray(MESH_CENTRE, np.float32)).astype(np.float16)
    return {"mesh": mesh, "size": np.array(source.size), "waveform": source.waveform}


def measure_crop(source: ClipSource) -> Arrays:
    """Whole face crops.

    Returns:
        ``crops`` (T, 96, 96, 3) uint8; ``waveform``.
    """
    frames = rearrange(torch.from_numpy(source.clip.frames), "t h w c -> t c h w")
    small = torch.cat([resize(chunk.float(), VIEW_SIZE, VIEW_SIZE) for chunk in frames.split(_CHUNK_FRAMES)])
    return {"crops": _to_bytes(small), "waveform": source.clip.waveform}


def measure_coefficients(source: ClipSource) -> Arrays:
    """Stored coefficients.

    Returns:
        ``coefficients`` (T, E) float32; ``waveform``.
    """
    return {"coefficients": _stored(source, "3dmm"), "waveform": source.waveform}


def measure_mouth_maps(source: ClipSource) -> Arrays:
    """Mouths cut out of stored parsing maps.

    Returns:
        ``maps`` (T, 6, 48, 48) uint8, probabilities times 255; ``waveform``.
    """
    return {"maps": _convert_maps(source, lambda maps: mouth_of_maps(maps, MOUTH_SIZE)), "waveform": source.waveform}


def measure_maps(source: ClipSource) -> Arrays:
    """Stored parsing maps.

    Returns:
        ``maps`` (T, 6, 128, 128) uint8, probabilities times 255; ``waveform``.
    """
    return {"maps": _convert_maps(source, lambda maps: resize(maps, MAP_SIZE, MAP_SIZE)), "waveform": source.waveform}


def _stored(source: ClipSource, visual: str) -> NDArray[Any]:
    stored = clip_features(source.entry, visual)
    if stored is None:
        raise ValueError(f"{source.entry.name}: expected stored {visual} features, got none")
    return stored


def _convert_maps(source: ClipSource, convert: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.uint8]:
    """Stored labels or probabilities as bytes, after a conversion of the probabilities (N, 6, H, W)."""
    stored = torch.from_numpy(_stored(source, "parsing"))
    check = ParsingInput(UniSyncConfig(visual="parsing"))
    chunks = [convert(check(chunk[None])[0]) for chunk in stored.split(_CHUNK_FRAMES)]
    return (torch.cat(chunks) * 255).round().clamp(0, 255).byte().numpy()


def _smooth(pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running mean over time: the measured pose jitters, a head does not."""
    padded = np.pad(pose, ((_SMOOTHING, _SMOOTHING), (0, 0), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _SMOOTHING + 1, axis=0)
    return windows.mean(-1).astype(np.float32)


def _to_bytes(frames: torch.Tensor) -> NDArray[np.uint8]:
    return rearrange(frames.clamp(0, 255).round().byte(), "t c h w -> t h w c").contiguous().numpy()


def _read_mouth(config: UniSyncConfig, stored: Arrays, kept: slice) -> tuple[Arrays, Arrays]:
    points = stored["points"][kept]
    # mouths differ between people while at rest: only the motion is comparable
    motion = points - np.median(points, axis=0)
    return {"cuts": stored["cuts"][kept], "motion": motion}, {"views": stored["views"], "poses": stored["poses"]}


def _read_mesh(config: UniSyncConfig, stored: Arrays, kept: slice) -> tuple[Arrays, Arrays]:
    per_frame = features_of_mesh(config, stored["mesh"], stored["size"])[kept]
    return {"per_frame": per_frame}, {"clip_mean": per_frame.mean(axis=0)}


def _read_crop(config: UniSyncConfig, stored: Arrays, kept: slice) -> tuple[Arrays, Arrays]:
    return {"crops": stored["crops"][kept]}, {}


def _read_coefficients(config: UniSyncConfig, stored: Arrays, kept: slice) -> tuple[Arrays, Arrays]:
    per_frame = stored["coefficients"][kept][:, None]  # one view: the mirror image of arbitrary coefficients is unknown
    return {"per_frame": per_frame}, {"clip_mean": per_frame.mean(axis=0)}


def _read_maps(config: UniSyncConfig, stored: Arrays, kept: slice) -> tuple[Arrays, Arrays]:
    maps = stored["maps"][kept]
    return {"maps": maps}, {"clip_mean": maps.mean(axis=0).round().astype(np.uint8)}


PARTS: dict[str, CachePart] = {
    "mouth": CachePart(measure_mouth, _read_mouth, MouthFrames, also=("mesh",)),
    "mesh": CachePart(measure_mesh, _read_mesh, FaceFeatures),
    "crop": CachePart(measure_crop, _read_crop, FaceCrops),
    "coefficients": CachePart(measure_coefficients, _read_coefficients, FaceFeatures),
    "mouth_maps": CachePart(measure_mouth_maps, _read_maps, ParsingMaps),
    "maps": CachePart(measure_maps, _read_maps, ParsingMaps),
}


def part_of(config: UniSyncConfig, entries: Sequence[ClipEntry]) -> str:
    """Name of the part that an expert is trained on: stored features where the clips have them, else the mesh.

    Raises:
        ValueError: for clips of which only some have stored features.
    """
    small = config.architecture == "small"
    if config.visual == "rgb":
        return "mouth" if small else "crop"
    if stored_width(entries, config.visual) is None:
        return "mesh"
    if config.visual == "3dmm":
        return "coefficients"
    return "mouth_maps" if small else "maps"
