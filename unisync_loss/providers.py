"""Visual representations from video frames: what an expert looks at, made with MediaPipe's mesh and nothing else.

Generators hand over their own landmarks, maps or coefficients; these stand in where there is only video, in training
and in scoring.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import PARSING_GROUPS, UniSyncConfig
from unisync_loss.face_model import EXPRESSIONS, expression_of_mesh
from unisync_loss.faces import face_mesh, fill_gaps
from unisync_loss.representations.landmark_tables import (
    FACE_OVAL,
    IBUG_68,
    INNER_LIPS,
    LEFT_CORNER,
    MOUTH_20,
    OUTER_LIPS,
)

MAP_SIZE = 96  # pixels of a parsing map's side
#: mesh points of each number of landmarks that an expert may take
LANDMARKS = {468: range(468), 68: IBUG_68, 20: [IBUG_68[point] for point in MOUTH_20]}


def visual_of_frames(config: UniSyncConfig, frames: NDArray[np.uint8]) -> Tensor:
    """Make from a clip what an expert looks at.

    Args:
        config: of the expert.
        frames: (T, H, W, 3) uint8 RGB, one face.

    Returns:
        (1, T, …) as the config's visual representation defines it: colours in [0, 1], labels of the parsing groups,
        landmarks in pixels, or coefficients of :mod:`unisync_loss.face_model`.

    Raises:
        ValueError: for frames that show no face, or a config whose representation cannot be made from video: landmarks
            with irises, coefficients of another face model.
        ImportError: without MediaPipe.
    """
    if config.visual == "rgb":
        return rearrange(torch.from_numpy(frames), "t h w c -> 1 t c h w").float() / 255
    check_provided(config)
    height, width = frames.shape[1:3]
    mesh = fill_gaps(face_mesh(frames, depth=True))
    if config.visual == "parsing":
        return torch.from_numpy(parsing_of_mesh(mesh[:, :, :2]))[None]
    pixels = torch.from_numpy(mesh * np.array([width, height, width], np.float32))[None]
    return expression_of_mesh(pixels) if config.visual == "3dmm" else landmarks_of_mesh(pixels, config.visual_features)


def check_provided(config: UniSyncConfig) -> None:
    """Refuse a config whose representation cannot be made from video, before any work.

    Raises:
        ValueError: see :func:`visual_of_frames`.
    """
    count = config.visual_features
    if config.visual == "3dmm" and count != EXPRESSIONS:
        raise ValueError(
            f"3dmm: expected the {EXPRESSIONS} coefficients that are made from video, got an expert on {count} of "
            "another face model: give it that model's coefficients"
        )
    if config.visual == "landmarks":
        _layout(count)


def landmarks_of_mesh(mesh: Tensor, features: int) -> Tensor:
    """Choose the landmarks that an expert takes.

    Args:
        mesh: (..., 468, 3).
        features: coordinates of a frame, 68, 20 or 468 points times 2 or 3 axes.

    Returns:
        (..., N, 2 or 3).

    Raises:
        ValueError: for another number of coordinates.
    """
    index, axes = _layout(features)
    return mesh[..., index, :axes]


def _layout(features: int) -> tuple[list[int], int]:
    for points, index in LANDMARKS.items():
        for axes in (2, 3):
            if points * axes == features:
                return list(index), axes
    known = ", ".join(map(str, LANDMARKS))
    raise ValueError(f"landmarks: expected {known} points, which are made from video, got {features} coordinates")


def parsing_of_mesh(mesh: NDArray[np.float32], size: int = MAP_SIZE) -> NDArray[np.uint8]:
    """Paint the groups of a parsing map: the oval of the face, both lips and what is between them.

    Args:
        mesh: (T, 468, 2) as shares of width and height.
        size: pixels of the map's sides.

    Returns:
        (T, size, size) labels of :data:`unisync_loss.config.PARSING_GROUPS`.
    """
    # both rings run along the lower side to the left corner and back along the upper one
    turn = LEFT_CORNER + 1
    lower = (*OUTER_LIPS[:turn], *reversed(INNER_LIPS[:turn]))
    upper = (*OUTER_LIPS[LEFT_CORNER:], OUTER_LIPS[0], INNER_LIPS[0], *reversed(INNER_LIPS[LEFT_CORNER:]))
    areas = {"skin": FACE_OVAL, "upper_lip": upper, "lower_lip": lower, "mouth": INNER_LIPS}
    labels = np.zeros((len(mesh), size, size), np.uint8)
    for group, ring in areas.items():
        for label, points in zip(labels, mesh[:, ring], strict=True):
            label[inside(points, size)] = PARSING_GROUPS.index(group)
    return labels


def inside(polygon: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside a polygon, by the even-odd rule.

    Args:
        polygon: (V, 2) corners as shares of width and height.
        size: pixels of the sides.

    Returns:
        (size, size).
    """
    centres = (np.arange(size) + 0.5) / size
    x, y = polygon.astype(np.float64).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    crosses = (y > centres[:, None]) != (next_y > centres[:, None])  # (rows, edges)
    slope = (next_x - x) / np.where(next_y == y, 1, next_y - y)
    crossing = np.where(crosses, x + slope * (centres[:, None] - y), -np.inf)
    return (crossing[:, None, :] > centres[None, :, None]).sum(2) % 2 == 1
