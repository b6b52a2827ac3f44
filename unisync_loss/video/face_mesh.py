"""Face meshes from video frames (MediaPipe), and pose and mouth shape from meshes. Needs the ``video`` extra."""

from __future__ import annotations

from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from unisync_loss.representations.face_topology import (
    MESH_POINTS,
    MOUTH_POINTS,
    RIGID_POINTS,
    TEMPLATE,
)

#: fraction of a clip's frames that must show a face; MediaPipe misses single frames of motion blur or a covered mouth
FEWEST_FACES = 0.8


def face_mesh(frames: NDArray[np.uint8], *, depth: bool = False) -> NDArray[np.float32]:
    """Measure the mesh of one face in every frame of a clip.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        depth: also return depth relative to the centre of the head, negative towards the camera.

    Returns:
        (T, 468, 2) positions as fractions of width and height, or (T, 468, 3) with depth as a fraction of the width;
        NaN where no face was found.

    Raises:
        ImportError: without MediaPipe.
    """
    with closing(MeshFinder()) as finder:
        mesh = finder(frames)
    return mesh if depth else mesh[:, :, :2]


class MeshFinder:
    """Tracks the mesh of one face from frame to frame, across calls.

    Raises:
        ImportError: without MediaPipe, whose wheel contains the model.
    """

    def __init__(self) -> None:
        try:
            from mediapipe.python.solutions.face_mesh import FaceMesh
        except ImportError as error:
            raise ImportError("face landmarks need MediaPipe: pip install 'unisync_loss[video]'") from error
        # below MediaPipe's default of 0.5, because inputs are face crops
        self._finder = FaceMesh(static_image_mode=False, max_num_faces=1, min_detection_confidence=0.3)

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Measure the mesh in the next frames, (T, H, W, 3) → (T, 468, 3); see :func:`face_mesh`."""
        mesh = np.full((len(frames), MESH_POINTS, 3), np.nan, np.float32)
        for index, frame in enumerate(frames):
            found = self._finder.process(frame).multi_face_landmarks
            if found:
                mesh[index] = [(point.x, point.y, point.z) for point in found[0].landmark]
        return mesh

    def close(self) -> None:
        """Free the resources of the model."""
        self._finder.close()


def fill_gaps(mesh: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give frames without a face the mesh of the nearest frame that has one.

    Args:
        mesh: (T, 468, D), NaN where no face was found.

    Returns:
        The same without NaN.

    Raises:
        ValueError: when more than a fifth of the frames show no face.
    """
    found = has_face(mesh)
    if found.mean() < FEWEST_FACES:
        raise ValueError(f"expected a face in every frame, found one in {found.sum()} of {found.size}")
    places, frames = np.flatnonzero(found), np.arange(len(mesh))
    after = places.searchsorted(frames).clip(0, len(places) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(places[after] - frames < frames - places[before], after, before)
    return mesh[places[nearest]]


def has_face(mesh: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Frames in which a face was found: (T, 468, D) → (T,)."""
    found: NDArray[np.bool_] = ~np.isnan(mesh).any((1, 2))
    return found


def pose_of_mesh(mesh: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Fit the face template to the rigid points of each frame.

    Args:
        mesh: (T, 468, 2) as fractions of width and height.
        size: height and width of the frames in pixels, so that the fit is a similarity in pixels.

    Returns:
        (T, 2, 3) affine maps from template coordinates to fractions of width and height; NaN where the mesh is.
    """
    height, width = size
    scale = np.array([width, height], np.float32)
    return np.stack([_similarity(points * scale) / scale[:, None] for points in mesh[:, RIGID_POINTS]])


def _similarity(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Least-squares scale, rotation and shift from TEMPLATE to points, (2, 3)."""
    template = np.asarray(TEMPLATE, np.float32)
    source, target = template - template.mean(0), points - points.mean(0)
    norm = (source**2).sum()  # closed form of the least-squares similarity in two dimensions
    cosine = (source * target).sum() / norm
    sine = (source[:, 0] * target[:, 1] - source[:, 1] * target[:, 0]).sum() / norm
    rotation = np.array([[cosine, -sine], [sine, cosine]], np.float32)
    shift = points.mean(0) - rotation @ template.mean(0)
    return np.concatenate([rotation, shift[:, None]], axis=1).astype(np.float32)


def mouth_of_mesh(mesh: NDArray[np.float32], pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mouth and chin points in template coordinates, independent of the head's position, size and tilt.

    Args:
        mesh: (T, 468, 2) as fractions of width and height.
        pose: (T, 2, 3) of :func:`pose_of_mesh`.

    Returns:
        (T, 52, 2).
    """
    points = mesh[:, MOUTH_POINTS] - pose[:, None, :, 2]
    return np.einsum("tij,tpj->tpi", np.linalg.inv(pose[:, :, :2]), points).astype(np.float32)


def lip_shape(mouth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Opening and width of the lips, in the template's unit, the distance between the outer corners of the eyes.

    Args:
        mouth: (T, 52, 2) of :func:`mouth_of_mesh`.

    Returns:
        (T, 2): mean distance between the middle three pairs of points of the inner lips, and distance between the
        corners of the mouth.
    """
    inner = mouth[:, 20:40]  # from the subject's right corner along the lower lip to the left one, back along the upper
    opening = np.linalg.norm(inner[:, [4, 5, 6]] - inner[:, [16, 15, 14]], axis=2).mean(1)
    width = np.linalg.norm(inner[:, 0] - inner[:, 10], axis=1)
    return np.stack([opening, width], axis=1)
