"""Face landmarks from video frames (MediaPipe), and what is read off them: pose and mouth shape.

Needs the ``video`` extra; imported by preparation and training, never by the loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisync_loss.aligner import TEMPLATE

MESH_POINTS = 468
#: points of the mesh that the mouth does not move: eye corners, nose bridge, wings and base; in TEMPLATE's order
RIGID_POINTS = (33, 133, 362, 263, 168, 6, 197, 195, 5, 98, 327, 2)
_OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
_CHIN = (152, 148, 176, 149, 150, 377, 400, 378, 379, 175, 199, 200)
#: 20 + 20 lip points and 12 chin points: what the mouth does
MOUTH_POINTS = _OUTER_LIPS + _INNER_LIPS + _CHIN
#: index in MOUTH_POINTS of each point's mirror image; both lip rings start at a corner and go round
MIRRORED_MOUTH = (
    *((10 - point) % 20 for point in range(20)),
    *(20 + (10 - point) % 20 for point in range(20)),
    *(40, 45, 46, 47, 48, 41, 42, 43, 44, 49, 50, 51),
)


def face_mesh(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Find one face's mesh in every frame of a clip.

    Args:
        frames: (T, H, W, 3) uint8 RGB.

    Returns:
        (T, 468, 2) positions as shares of width and height; NaN where no face was found.

    Raises:
        ImportError: without MediaPipe.
    """
    try:
        from mediapipe.python.solutions.face_mesh import FaceMesh
    except ImportError as error:
        raise ImportError("face landmarks need MediaPipe: pip install 'unisync_loss[video]'") from error

    mesh = np.full((len(frames), MESH_POINTS, 2), np.nan, np.float32)
    with FaceMesh(static_image_mode=False, max_num_faces=1, min_detection_confidence=0.3) as finder:
        for index, frame in enumerate(frames):
            found = finder.process(frame).multi_face_landmarks
            if found:
                mesh[index] = [(point.x, point.y) for point in found[0].landmark]
    return mesh


def pose_of_mesh(mesh: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Fit the face template to the rigid points of each frame.

    Args:
        mesh: (T, 468, 2) as shares of width and height.
        size: height and width of the frames in pixels, so that the fit is a similarity in pixels.

    Returns:
        (T, 2, 3) affine maps from template coordinates to shares of width and height; NaN where the mesh is.
    """
    height, width = size
    scale = np.array([width, height], np.float32)
    return np.stack([_similarity(points * scale) / scale[:, None] for points in mesh[:, RIGID_POINTS]])


def _similarity(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Least-squares scale, rotation and shift from TEMPLATE to points, (2, 3)."""
    template = np.asarray(TEMPLATE, np.float32)
    source, target = template - template.mean(0), points - points.mean(0)
    norm = (source**2).sum()
    cosine = (source * target).sum() / norm
    sine = (source[:, 0] * target[:, 1] - source[:, 1] * target[:, 0]).sum() / norm
    rotation = np.array([[cosine, -sine], [sine, cosine]], np.float32)
    shift = points.mean(0) - rotation @ template.mean(0)
    return np.concatenate([rotation, shift[:, None]], axis=1).astype(np.float32)


def mouth_of_mesh(mesh: NDArray[np.float32], pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mouth and chin points in template coordinates: free of the head's place, size and tilt.

    Args:
        mesh: (T, 468, 2) as shares of width and height.
        pose: (T, 2, 3) of :func:`pose_of_mesh`.

    Returns:
        (T, 52, 2).
    """
    points = mesh[:, MOUTH_POINTS] - pose[:, None, :, 2]
    return np.einsum("tij,tpj->tpi", np.linalg.inv(pose[:, :, :2]), points).astype(np.float32)
