"""Boxes and landmarks that the user brings: ``VIDEO.boxes.npy``, ``VIDEO.landmarks.json``, … beside ``VIDEO.mp4``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unisync_loss.video.face_detection import Boxes, FaceFinder, Frame


class GivenFaces:
    """Faces of a video by the number of the file's own pictures.

    Attributes:
        boxes: (N, K, 4) left, top, right, bottom in pixels of the source, NaN where there is no face.
        landmarks: (N, P, 2) in pixels of the source, or None.
        number: picture that the finder is asked about next; set by whoever pulls the pictures.
        shrunk: pixels of the pictures at hand per pixel of the source.
    """

    def __init__(self, boxes: NDArray[np.float32] | None, landmarks: NDArray[np.float32] | None) -> None:
        """Take (N, 4) or (N, K, 4) boxes; without them, those that enclose the landmarks (N, P, 2).

        Raises:
            ValueError: for other shapes, or when both are missing.
        """
        if landmarks is not None and (landmarks.ndim != 3 or landmarks.shape[2] < 2):
            raise ValueError(f"landmarks: expected (N, P, 2), got {landmarks.shape}")
        self.landmarks = None if landmarks is None else landmarks[..., :2]
        if boxes is None:
            if self.landmarks is None:
                raise ValueError("expected boxes or landmarks, got neither")
            boxes = np.concatenate([self.landmarks.min(1), self.landmarks.max(1)], 1)
        if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
            raise ValueError(f"boxes: expected (N, 4) or (N, K, 4), got {boxes.shape}")
        self.boxes = boxes if boxes.ndim == 3 else boxes[:, None]
        self.number = 0
        self.shrunk = 1.0

    def finder(self) -> FaceFinder:
        """A finder that answers with the boxes of the picture at hand."""

        def find(frame: Frame) -> Boxes:
            if self.number >= len(self.boxes):
                return np.zeros((0, 4), np.float32)
            boxes = self.boxes[self.number]
            return boxes[np.isfinite(boxes).all(1)] * self.shrunk

        return find

    def landmarks_in(self, numbers: list[int], squares: Boxes) -> NDArray[np.float32]:
        """Landmarks of some pictures as shares of their crops.

        Args:
            numbers: of the pictures, T of them.
            squares: (T, 3) centre and side of the crops in pixels of the source.

        Returns:
            (T, P, 2), NaN beyond the last picture that has some.
        """
        assert self.landmarks is not None
        points = np.full((len(numbers), *self.landmarks.shape[1:]), np.nan, np.float32)
        for row, number in enumerate(numbers):
            if number < len(self.landmarks):
                points[row] = self.landmarks[number]
        return (points - squares[:, None, :2]) / squares[:, None, 2:] + 0.5


def read_given(path: str) -> GivenFaces | None:
    """Read the files beside a video, if there are any.

    Raises:
        ValueError: for files that hold something else.
    """
    boxes, landmarks = (_read_array(Path(path).with_suffix(f".{kind}")) for kind in ("boxes", "landmarks"))
    return None if boxes is None and landmarks is None else GivenFaces(boxes, landmarks)


def _read_array(stem: Path) -> NDArray[np.float32] | None:
    for path in (stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".json")):
        if path.is_file():
            try:
                if path.suffix == ".npy":
                    return np.asarray(np.load(path, allow_pickle=False), np.float32)
                rows = json.loads(path.read_text(encoding="utf-8"))
                return np.asarray(rows, np.float32)
            except (ValueError, TypeError, EOFError) as error:
                raise ValueError(f"{path}: expected an array of numbers ({error})") from error
    return None
