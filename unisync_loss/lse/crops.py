"""Face crops of SyncNet's pipeline: faces linked over time, boxes smoothed, a square of 2.8 half sides.

The original detects faces with S3FD in every frame. Here MediaPipe detects them in every fifth frame, with boxes
interpolated linearly in between, as the original does where a face was missed; the boxes are scaled to the extent of
S3FD's, but are not the same, so crops, and with them LSE, differ slightly from the original's on the same video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.lse.syncnet import SIZE
from unisync_loss.video.face_detection import Boxes, FaceFinder, Frame, overlap
from unisync_loss.video.face_tracking import DETECT_EVERY, SCENE_CUT, thumbnail

# values of run_pipeline.py of syncnet_python
MAX_GAP = 25  # frames without a face that a track survives
MIN_IOU = 0.5  # overlap of a face with the track's last
MIN_FACE = 100  # pixels, mean longer side of a track's boxes
MARGIN = 0.4  # of half the box's side, around the face
SMOOTHING = 13  # frames of the median filter
GREY = 110  # level outside the image
#: side of the whole face (forehead to chin, as S3FD's boxes) in sides of MediaPipe's box, and its shift upwards in the
#: same: medians against the box of MediaPipe's mesh, 101 frames of 26 training clips
FACE_SCALE, FACE_RISE = 1.10, 0.065

Array = NDArray[np.float64]
Face = tuple[int, Array]  # frame, and left, top, right, bottom in pixels


class CropBox(NamedTuple):
    """Centre of a face and half its longer side, in pixels."""

    x: float
    y: float
    half: float


class FaceTrack(NamedTuple):
    """One face over time.

    Attributes:
        start: its first frame.
        boxes: (T, 4) left, top, right, bottom in pixels, one per frame; interpolated where no detection was run.
    """

    start: int
    boxes: Array


def find_tracks(frames: Iterable[Frame], finder: FaceFinder) -> list[FaceTrack]:
    """Detect and track every face of a video from cut to cut.

    Args:
        frames: (H, W, 3) uint8 RGB at 25 fps.
        finder: face detector whose boxes reach from brows to chin.

    Returns:
        Tracks of any length; a scene cut ends them all.
    """
    tracks: list[FaceTrack] = []
    for _, scene in groupby(_detection_frames(frames), key=lambda item: item[0]):
        faces = [(index, box) for _, index, frame in scene for box in finder(frame, index)]
        tracks += link_tracks([(index, whole_face(box)) for index, box in faces])
    return tracks


def _detection_frames(frames: Iterable[Frame]) -> Iterator[tuple[int, int, Frame]]:
    """Scene, number and image of every fifth frame of a scene, and of its last."""
    scene = first = index = 0
    last: Frame | None = None
    for index, frame in enumerate(frames):
        cut = last is not None and np.abs(thumbnail(frame) - thumbnail(last)).mean() > SCENE_CUT
        if cut and last is not None:
            if (index - 1 - first) % DETECT_EVERY:
                yield scene, index - 1, last
            scene, first = scene + 1, index
        if (index - first) % DETECT_EVERY == 0:
            yield scene, index, frame
        last = frame
    if last is not None and (index - first) % DETECT_EVERY:
        yield scene, index, last


def whole_face(box: Boxes) -> Array:
    """Square (4,) from forehead to chin for a box (4,) of MediaPipe, which reaches from brows to chin."""
    side = float((box[2:] - box[:2]).mean())
    middle = (box[:2] + box[2:]).astype(np.float64) / 2 - [0, FACE_RISE * side]
    return np.concatenate([middle - FACE_SCALE * side / 2, middle + FACE_SCALE * side / 2])


def link_tracks(faces: Sequence[Face]) -> list[FaceTrack]:
    """Link boxes over time greedily: to a track's last box if they overlap and are at most 25 frames apart.

    Args:
        faces: in order of their frames.

    Returns:
        Tracks in order of their first frame, until every box is used; gaps are interpolated linearly.
    """
    remaining = list(faces)
    tracks = []
    while remaining:
        track = remaining[:1]
        passed: list[Face] = []
        for position, (frame, box) in enumerate(remaining[1:], 1):
            last, last_box = track[-1]
            if frame - last > MAX_GAP:
                passed += remaining[position:]
                break
            same = frame > last and overlap(box[None], last_box[None])[0, 0] > MIN_IOU
            (track if same else passed).append((frame, box))
        remaining = passed
        times, boxes = zip(*track, strict=True)
        frames = np.arange(times[0], times[-1] + 1)
        filled = np.stack([np.interp(frames, times, side) for side in np.stack(boxes).T], axis=1)
        tracks.append(FaceTrack(int(times[0]), filled))
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


def crop_boxes(track: FaceTrack) -> Iterator[CropBox]:
    """Crop box of each frame, median filtered over 13 frames.

    The filter takes zeros beyond both ends, as the original's does, so the first and last six boxes are a little off.
    """
    centre = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
    values = np.concatenate([centre, longer_side(track)[:, None] / 2], axis=1)
    reach = SMOOTHING // 2
    padded = np.pad(values, ((reach, reach), (0, 0)))
    for index in range(len(values)):
        x, y, half = np.median(padded[index : index + SMOOTHING], axis=0)
        yield CropBox(float(x), float(y), float(half))


def crop_face(frame: Frame, box: CropBox) -> Tensor:
    """Cut a face out: from one half side above the centre of the box to 1.8 below, and as wide as high.

    Args:
        frame: (H, W, 3) uint8.
        box: of :func:`crop_boxes`.

    Returns:
        (3, 224, 224) uint8; grey outside the image.
    """
    x, y, half = box
    pad = int(half * (1 + 2 * MARGIN))  # the original pads the image first, then rounds towards zero
    top, bottom = (int(y + pad - half) - pad, int(y + pad + half * (1 + 2 * MARGIN)) - pad)
    left, right = (int(x + pad - half * (1 + MARGIN)) - pad, int(x + pad + half * (1 + MARGIN)) - pad)
    square = np.full((max(1, bottom - top), max(1, right - left), 3), GREY, np.uint8)
    height, width = frame.shape[:2]
    inside = frame[max(0, top) : max(0, min(bottom, height)), max(0, left) : max(0, min(right, width))]
    row, column = max(0, -top), max(0, -left)
    square[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return resize_frame(square)


def resize_frame(frame: Frame) -> Tensor:
    """Resize to 224 × 224 as OpenCV does: bilinearly, without antialiasing, rounded.

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        (3, 224, 224) uint8.
    """
    image = torch.from_numpy(frame).movedim(-1, 0)
    if frame.shape[:2] == (SIZE, SIZE):
        return image
    return F.interpolate(image[None].float(), (SIZE, SIZE), mode="bilinear").round().byte()[0]
