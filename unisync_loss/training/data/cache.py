"""What training reads again and again, computed once a clip: what the face looks like and does, and the voice.

``mouth`` is for experts on colours: mouth cuts, mouth points, a few faces and their poses. ``mesh`` is for all others:
MediaPipe's whole mesh, from which landmarks, parsing maps and coefficients are made; ``crop`` the whole picture, small,
for the ``paper`` architecture on colours. A file a clip and part.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from unisync_loss.data.clips import ClipEntry, clip_mesh, decode_clip
from unisync_loss.models.mouth_aligner import sample_mouth
from unisync_loss.utils.files import fingerprint, write_atomically
from unisync_loss.utils.image import resize
from unisync_loss.utils.process_pool import run_tasks
from unisync_loss.video.clip import Clip
from unisync_loss.video.face_mesh import mouth_of_mesh, pose_of_mesh

logger = logging.getLogger(__name__)
VERSION = 1  # of the numbers below; a change makes old caches unused
CUT_SIZE = 80  # pixels of a mouth cut, with room for the trainer to shift, scale and turn it
CUT_SIDE = 1.25  # template units of a mouth cut
VIEW_SIZE = 96  # pixels of a face view, for the aligner
VIEWS = 8  # face views kept per clip
MESH_CENTRE = (0.5, 0.5, 0.0)  # taken off the stored mesh: half floats are finest near 0
_SMOOTHING = 2  # frames on either side that steady the measured pose


Part = Literal["mouth", "mesh", "crop"]


class CachedCrop(NamedTuple):
    """A clip's pictures, before its offset is put right.

    Attributes:
        crops: (T, 96, 96, 3) uint8.
        waveform: (640 T,) float32.
    """

    crops: NDArray[np.uint8]
    waveform: NDArray[np.float32]


class CachedMesh(NamedTuple):
    """A clip's face as points, before its offset is put right.

    Attributes:
        mesh: (T, 468, 3) float16, shares of width, height and width, less :data:`MESH_CENTRE`.
        size: (2,) height and width of the frames in pixels.
        waveform: (640 T,) float32.
    """

    mesh: NDArray[np.float16]
    size: NDArray[np.int64]
    waveform: NDArray[np.float32]


class CachedClip(NamedTuple):
    """A clip as training sees it, before its offset is put right.

    Attributes:
        cuts: (T, 80, 80, 3) uint8 mouth cuts at the measured pose.
        points: (T, 52, 2) mouth points in template coordinates.
        views: (V, 96, 96, 3) uint8 whole crops.
        poses: (V, 2, 3) their poses.
        waveform: (640 T,) float32.
    """

    cuts: NDArray[np.uint8]
    points: NDArray[np.float32]
    views: NDArray[np.uint8]
    poses: NDArray[np.float32]
    waveform: NDArray[np.float32]


def build_cache(
    entries: list[ClipEntry], folder: Path, workers: int, part: Part = "mouth"
) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Compute what is missing, a file a clip, each under a temporary name first.

    Args:
        entries: the clips.
        folder: of the cache; made if missing.
        workers: processes.
        part: what to keep of each clip.

    Yields:
        Clips done, clips in all, and the reasons of those skipped so far by clip name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    readable: list[ClipEntry] = []
    skipped: dict[str, str] = {}
    for entry in entries:
        if _is_readable(entry):
            readable.append(entry)
        else:
            skipped[entry.name] = f"no file that can be read: {entry.path}"
    todo = [entry for entry in readable if not cache_path(entry, folder, part).exists()]
    done = len(entries) - len(todo)
    yield done, len(entries), skipped
    for result in run_tasks([(entry, folder, part) for entry in todo], _cache_one, _died, min(workers, len(todo))):
        if result is not None:
            name, reason = result
            done += 1
            if reason:
                skipped[name] = reason
        yield done, len(entries), skipped


def is_cached(entry: ClipEntry, folder: Path, part: Part = "mouth") -> bool:
    """Whether a clip is measured; not one whose file is gone: it is known by what is in it."""
    return _is_readable(entry) and cache_path(entry, folder, part).exists()


def _is_readable(entry: ClipEntry) -> bool:
    return entry.path.is_file() and os.access(entry.path, os.R_OK)


def cache_path(entry: ClipEntry, folder: Path, part: Part = "mouth") -> Path:
    """File of one clip, named by what is in the source: copied or moved, it is known again."""
    key = f"{VERSION} {fingerprint(entry.path)}"
    if entry.record is not None:
        key += f" {entry.record.key}"
    suffix = ".safetensors" if part == "mouth" else f".{part}.safetensors"
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}{suffix}"


def load_cached(entry: ClipEntry, folder: Path) -> CachedClip:
    """Read the mouth part of one clip."""
    return CachedClip(**load_file(cache_path(entry, folder)))


def load_mesh(entry: ClipEntry, folder: Path) -> CachedMesh:
    """Read the mesh part of one clip."""
    return CachedMesh(**load_file(cache_path(entry, folder, "mesh")))


def load_crop(entry: ClipEntry, folder: Path) -> CachedCrop:
    """Read the crop part of one clip."""
    return CachedCrop(**load_file(cache_path(entry, folder, "crop")))


def _cache_one(task: tuple[ClipEntry, Path, Part]) -> tuple[str, str]:
    """Cache one clip; returns its name and why it was skipped, or nothing."""
    entry, folder, part = task
    try:
        clip = decode_clip(entry)
        if part == "crop":
            _write(cache_path(entry, folder, part), see_crop(clip))
            return entry.name, ""
        mesh = clip_mesh(entry, clip.frames)
    except ValueError as error:
        return entry.name, str(error)
    # the mesh takes the time and little room: whoever wants the mouth has it for the other experts, too
    _write(cache_path(entry, folder, "mesh"), keep_mesh(clip, mesh))
    if part == "mouth":
        _write(cache_path(entry, folder), see_mouth(clip, mesh[:, :, :2]))
    return entry.name, ""


def _died(task: tuple[ClipEntry, Path, Part], how: str) -> tuple[str, str]:
    return task[0].name, f"the process that measured it died: {how}"


def _write(path: Path, cached: CachedClip | CachedMesh | CachedCrop) -> None:
    write_atomically(path, save({key: np.ascontiguousarray(value) for key, value in cached._asdict().items()}))


def keep_mesh(clip: Clip, mesh: NDArray[np.float32]) -> CachedMesh:
    """What is kept of a clip for experts on anything but colours."""
    size = np.array(clip.frames.shape[1:3])
    return CachedMesh((mesh - np.asarray(MESH_CENTRE, np.float32)).astype(np.float16), size, clip.waveform)


def see_crop(clip: Clip) -> CachedCrop:
    """What is kept of a clip for the ``paper`` architecture on colours."""
    picture = rearrange(torch.from_numpy(clip.frames), "t h w c -> t c h w")
    small = torch.cat([resize(piece.float(), VIEW_SIZE, VIEW_SIZE) for piece in picture.split(256)])
    return CachedCrop(_to_bytes(small), clip.waveform)


def see_mouth(clip: Clip, mesh: NDArray[np.float32]) -> CachedClip:
    """What is kept of a clip for experts on colours; the mesh is (T, 468, 2)."""
    pose = _smooth(pose_of_mesh(mesh, (clip.frames.shape[1], clip.frames.shape[2])))
    picture = rearrange(torch.from_numpy(clip.frames), "t h w c -> t c h w").float()
    cuts = sample_mouth(picture, torch.from_numpy(pose), size=CUT_SIZE, side=CUT_SIDE)
    kept = np.linspace(0, len(picture) - 1, VIEWS).round().astype(int)
    views = resize(picture[kept], VIEW_SIZE, VIEW_SIZE)
    return CachedClip(_to_bytes(cuts), mouth_of_mesh(mesh, pose), _to_bytes(views), pose[kept], clip.waveform)


def _smooth(pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running mean over time: the measured pose trembles, a head does not."""
    padded = np.pad(pose, ((_SMOOTHING, _SMOOTHING), (0, 0), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _SMOOTHING + 1, axis=0)
    return windows.mean(-1).astype(np.float32)


def _to_bytes(picture: torch.Tensor) -> NDArray[np.uint8]:
    return rearrange(picture.clamp(0, 255).round().byte(), "t c h w -> t h w c").contiguous().numpy()
