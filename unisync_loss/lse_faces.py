"""Face crops as SyncNet's pipeline cuts them: one face a video, linked over time, smoothed, a square of 2.8 half sides.

The original finds faces with S3FD. Here they are the boxes of MediaPipe's mesh, which are near to but not the same as
S3FD's, so crops, and with them LSE, differ slightly from the original's on the same video. The original also looks for
cuts between scenes; here a track ends where the face jumps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.face_finder import overlap
from unisync_loss.faces import face_mesh
from unisync_loss.media import stream_frames
from unisync_loss.syncnet import SIZE

MAX_GAP = 25  # frames without a face that a track survives
MIN_IOU = 0.5  # overlap of a face with the track's last
MIN_FACE = 100  # pixels, mean longer side of a track's boxes
MARGIN = 0.4  # of half the box's side, around the face
SMOOTHING = 13  # frames of the median filter
GREY = 110  # what lies outside the picture
_SHORT_SIDE = 360  # pixels of a picture in which faces are looked for
_CHUNK = 100  # pictures

Array = NDArray[np.float64]
Place = tuple[float, float, float]  # centre x, y and half side of a box, pixels


class FaceTrack(NamedTuple):
    """One face over time.

    Attributes:
        start: its first frame.
        boxes: (T, 4) left, top, right, bottom in pixels, one a frame, filled in where the face was lost.
    """

    start: int
    boxes: Array


def find_boxes(path: str | os.PathLike[str], tick: Callable[[int], None] = lambda frames: None) -> Array:
    """Find the face of every frame of a video at 25 fps.

    Args:
        path: the video.
        tick: told the number of frames done.

    Returns:
        (T, 4) left, top, right, bottom in pixels of the video; NaN where no face was found.

    Raises:
        ValueError: when the file cannot be decoded.
        ImportError: without MediaPipe.
    """
    height, width = next(stream_frames(path)).shape[:2]
    boxes: list[Array] = []
    chunk: list[NDArray[np.uint8]] = []

    def flush() -> None:
        mesh = face_mesh(np.stack(chunk)).astype(np.float64) * [width, height]
        boxes.append(np.concatenate([mesh.min(1), mesh.max(1)], axis=1))
        chunk.clear()
        tick(sum(map(len, boxes)))

    for frame in stream_frames(path, short_side=_SHORT_SIDE):
        chunk.append(frame)
        if len(chunk) == _CHUNK:
            flush()
    if chunk:
        flush()
    return np.concatenate(boxes)


def link_tracks(boxes: Array) -> list[FaceTrack]:
    """Link boxes over time, greedily: to the track's last box if they overlap and at most 25 frames lie between.

    Args:
        boxes: (T, 4), NaN where there is no face.

    Returns:
        Tracks in order of their first frame, as many as it takes to use every box; gaps are filled in linearly.
    """
    left = [int(frame) for frame in np.flatnonzero(np.isfinite(boxes).all(1))]
    tracks = []
    while left:
        track, done = left[:1], len(left)
        passed: list[int] = []
        for position, frame in enumerate(left[1:], 1):
            if frame - track[-1] > MAX_GAP:
                done = position
                break
            shared = overlap(boxes[frame, None], boxes[track[-1], None])[0, 0]
            (track if shared > MIN_IOU else passed).append(frame)
        left = passed + left[done:]
        frames = np.arange(track[0], track[-1] + 1)
        filled = np.stack([np.interp(frames, track, side) for side in boxes[track].T], axis=1)
        tracks.append(FaceTrack(track[0], filled))
    return tracks


def keep_tracks(tracks: list[FaceTrack], min_frames: int) -> list[FaceTrack]:
    """Tracks of more than ``min_frames`` frames whose face is larger than 100 pixels.

    Raises:
        ValueError: when none is left, with the reason.
    """
    if not tracks:
        raise ValueError("no face found")
    long = [track for track in tracks if len(track.boxes) > min_frames]
    if not long:
        longest = max(len(track.boxes) for track in tracks)
        raise ValueError(f"no face track of more than {min_frames} frames at 25 fps, the longest has {longest}")
    kept = [track for track in long if longer_side(track).mean() > MIN_FACE]
    if not kept:
        largest = max(longer_side(track).mean() for track in long)
        raise ValueError(f"no face larger than {MIN_FACE} pixels, the largest has {largest:.0f}")
    return kept


def longer_side(track: FaceTrack) -> Array:
    """(T,) pixels of the longer side of each box."""
    sides: Array = (track.boxes[:, 2:] - track.boxes[:, :2]).max(1)
    return sides


def crops(track: FaceTrack) -> Iterator[Place]:
    """Centre and half side of each frame's box, smoothed over 13 frames.

    The filter sees zeros beyond both ends, as the original's does, so the first and last six frames are a little off.

    Yields:
        x, y and half side in pixels.
    """
    centre = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
    values = np.concatenate([centre, longer_side(track)[:, None] / 2], axis=1)
    reach = SMOOTHING // 2
    padded = np.pad(values, ((reach, reach), (0, 0)))
    for index in range(len(values)):
        x, y, half = np.median(padded[index : index + SMOOTHING], axis=0)
        yield float(x), float(y), float(half)


def cut(frame: NDArray[np.uint8], x: float, y: float, half: float) -> Tensor:
    """Cut a face out: as high above its centre as the box, 0.8 half sides lower, and as wide as high.

    Args:
        frame: (H, W, 3) uint8.
        x: centre of the box, pixels.
        y: centre of the box, pixels.
        half: half its longer side, pixels.

    Returns:
        (3, 224, 224) uint8; grey outside the picture.
    """
    pad = int(half * (1 + 2 * MARGIN))  # the original pads the picture first, then rounds towards zero
    top, bottom = (int(y + pad - half) - pad, int(y + pad + half * (1 + 2 * MARGIN)) - pad)
    left, right = (int(x + pad - half * (1 + MARGIN)) - pad, int(x + pad + half * (1 + MARGIN)) - pad)
    square = np.full((max(1, bottom - top), max(1, right - left), 3), GREY, np.uint8)
    height, width = frame.shape[:2]
    inside = frame[max(0, top) : max(0, min(bottom, height)), max(0, left) : max(0, min(right, width))]
    row, column = max(0, -top), max(0, -left)
    square[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return squeeze(square)


def squeeze(frame: NDArray[np.uint8]) -> Tensor:
    """Resize to 224 × 224 bilinearly, as OpenCV does: without smoothing, rounded.

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        (3, 224, 224) uint8.
    """
    picture = torch.from_numpy(frame).movedim(-1, 0)
    if frame.shape[:2] == (SIZE, SIZE):
        return picture
    return F.interpolate(picture[None].float(), (SIZE, SIZE), mode="bilinear").round().byte()[0]
