"""Face detection in single frames with MediaPipe's detectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Boxes = NDArray[np.float32]
#: frame (H, W, 3) uint8 RGB and its number → (N, 4) left, top, right, bottom in pixels, brows to chin
FaceFinder = Callable[[Frame, int], Boxes]

SAME_FACE = 0.3  # intersection over union of two boxes of one face, at one time or a fifth of a second apart
_SCORE = 0.5  # MediaPipe's own default
_SECOND_PASS = 1.85  # side of the region of the second pass, in sides of the box; that of a crop (CROP_SCALE)


class MediaPipeFinder:
    """MediaPipe's two detectors in two passes: faces in the frame, then the box of each in a crop around it.

    Each detector shrinks its input to 128 or 192 pixels, so a wide frame is covered with squares. The size of a box
    depends on the part of the input that the face fills: the second pass makes boxes independent of the frame.

    Raises:
        ImportError: without MediaPipe, whose wheel contains the models.
    """

    def __init__(self) -> None:
        try:
            from mediapipe.python.solutions.face_detection import FaceDetection
        except ImportError as error:
            raise ImportError("finding faces needs MediaPipe: pip install 'unisync_loss[video]'") from error
        # MediaPipe's models: 0 for faces within 2 m of the camera, 1 within 5 m
        self._near, self._far = FaceDetection(_SCORE, 0), FaceDetection(_SCORE, 1)

    def __call__(self, frame: Frame, _number: int = 0) -> Boxes:
        """Find faces, (H, W, 3) → (N, 4), the most certain first."""
        found = _detect(self._near, frame)
        for part, left, top in cover_with_squares(frame):
            found += [(score, _moved(box, left, top)) for score, box in _detect(self._far, part)]
        kept: list[Boxes] = []
        for _, box in sorted(found, key=lambda face: -face[0]):
            box = self._refine(frame, box)
            if not any(_same_place(box, other) for other in kept):
                kept.append(box)
        return np.array(kept, np.float32).reshape(-1, 4)

    def _refine(self, frame: Frame, box: Boxes) -> Boxes:
        """Detect again around a box; returns the box itself where no face is found, as in profile."""
        middle, reach = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).mean() * _SECOND_PASS / 2
        left, top = np.maximum(middle - reach, 0).astype(int)
        right, bottom = np.ceil(middle + reach).astype(int)
        for _, again in _detect(self._near, frame[top:bottom, left:right]):
            if _same_place(box, _moved(again, left, top)):
                return _moved(again, left, top)
        return box


@cache
def shared_finder() -> MediaPipeFinder:
    """One finder for all videos of a process."""
    return MediaPipeFinder()


def _detect(detector: Any, frame: Frame) -> list[tuple[float, Boxes]]:  # noqa: ANN401 - MediaPipe has no types
    """Scores and boxes in pixels."""
    if min(frame.shape[:2]) < 2:
        return []
    height, width = frame.shape[:2]
    faces = []
    for face in detector.process(np.ascontiguousarray(frame)).detections or []:
        share = face.location_data.relative_bounding_box
        box = (share.xmin, share.ymin, share.xmin + share.width, share.ymin + share.height)
        faces.append(
            (float(face.score[0]), np.array(box, np.float32) * np.array([width, height, width, height], np.float32))
        )
    return faces


def cover_with_squares(frame: Frame) -> Iterator[tuple[Frame, int, int]]:
    """Cover a frame with squares that overlap by a third, so that a face lies whole in one; one that is nearly square.

    Yields:
        Square, its left and its top.
    """
    height, width = frame.shape[:2]
    side, long = min(height, width), max(height, width)
    # up to 10 % longer than wide is nearly square; 0.65 from one square to the next is an overlap of a third
    steps = max(0, math.ceil((long / side - 1.1) / 0.65))
    if not steps:
        yield frame, 0, 0
        return
    for offset in np.linspace(0, long - side, steps + 1).round().astype(int).tolist():
        if width >= height:
            yield frame[:, offset : offset + side], offset, 0
        else:
            yield frame[offset : offset + side], 0, offset


def _moved(box: Boxes, left: int, top: int) -> Boxes:
    return box + np.array([left, top, left, top], np.float32)


def overlap(boxes: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Intersection over union of every box (N, 4) with every other (M, 4), (N, M) in [0, 1]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(-1) for each in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _same_place(box: Boxes, other: Boxes) -> bool:
    """Overlapping boxes, or one that lies in the other."""
    middle = (box[:2] + box[2:]) / 2
    inside = bool((middle > other[:2]).all() and (middle < other[2:]).all())
    return inside or float(overlap(box[None], other[None])[0, 0]) > SAME_FACE
