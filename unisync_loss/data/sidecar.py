"""User-supplied faces: ``VIDEO.boxes.npy``, ``VIDEO.landmarks.json``, … beside ``VIDEO.mp4``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unisync_loss.utils.tensors import read_array
from unisync_loss.video.face_detection import Boxes


class SidecarFaces:
    """Faces of a video by frame number of the file.

    Args:
        boxes: (N, 4) or (N, K, 4) left, top, right, bottom in pixels of the upright frame, NaN where there is no face;
            None takes the boxes that enclose the landmarks.
        landmarks: (N, P, 2) or (N, P, 3) in pixels of the upright frame, depth in pixels too, negative towards the
            camera; or None.

    Raises:
        ValueError: for other shapes, or when both are missing.
    """

    def __init__(self, boxes: NDArray[np.float32] | None, landmarks: NDArray[np.float32] | None) -> None:
        if landmarks is not None and (landmarks.ndim != 3 or landmarks.shape[2] not in (2, 3)):
            raise ValueError(f"landmarks: expected (N, P, 2) or (N, P, 3), got {landmarks.shape}")
        self.landmarks = landmarks
        if boxes is None:
            if landmarks is None:
                raise ValueError("expected boxes or landmarks, got neither")
            boxes = np.concatenate([landmarks[..., :2].min(1), landmarks[..., :2].max(1)], 1)
        if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
            raise ValueError(f"boxes: expected (N, 4) or (N, K, 4), got {boxes.shape}")
        self.boxes = boxes if boxes.ndim == 3 else boxes[:, None]

    def boxes_of(self, number: int) -> Boxes:
        """Boxes (K, 4) of a frame by its number in the file; none beyond the last."""
        if number >= len(self.boxes):
            return np.zeros((0, 4), np.float32)
        boxes = self.boxes[number]
        return boxes[np.isfinite(boxes).all(1)]

    def landmarks_in_crops(self, numbers: list[int], squares: Boxes) -> NDArray[np.float32] | None:
        """Landmarks of some frames in units of their crops.

        Args:
            numbers: of the frames, T of them.
            squares: (T, 3) centre and side of the crops in pixels of the upright frame.

        Returns:
            (T, P, 2 or 3): position as fractions of the crop, depth as a fraction of its side; NaN beyond the last
            frame that has some. None without landmarks.
        """
        if self.landmarks is None:
            return None
        points = np.full((len(numbers), *self.landmarks.shape[1:]), np.nan, np.float32)
        for row, number in enumerate(numbers):
            if number < len(self.landmarks):
                points[row] = self.landmarks[number]
        points[..., :2] -= squares[:, None, :2]
        points /= squares[:, None, 2:]
        points[..., :2] += 0.5
        return points


def read_sidecar(path: str) -> SidecarFaces | None:
    """Read the files beside a video, if there are any.

    Raises:
        ValueError: for files that hold something else.
    """
    boxes, landmarks = (_read_array(Path(path).with_suffix(f".{kind}")) for kind in ("boxes", "landmarks"))
    return None if boxes is None and landmarks is None else SidecarFaces(boxes, landmarks)


def _read_array(stem: Path) -> NDArray[np.float32] | None:
    for path in (stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".json")):
        if path.is_file():
            try:
                rows = read_array(path) if path.suffix == ".npy" else json.loads(path.read_bytes())
                return np.asarray(rows, np.float32)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                raise ValueError(f"{path}: expected an array of numbers ({error})") from error
    return None
