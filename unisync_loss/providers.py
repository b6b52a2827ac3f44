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

MAP_SIZE = 128  # pixels of a side of a parsing map: a mouth is a sixth of it, what is open of it a few pixels high
#: mesh points of each number of landmarks that an expert may take
LANDMARKS = {468: range(468), 68: IBUG_68, 20: [IBUG_68[point] for point in MOUTH_20]}
#: mesh points that bound the groups of a parsing map
RINGS = (*FACE_OVAL, *OUTER_LIPS, *INNER_LIPS)


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
    return visual_of_mesh(config, fill_gaps(face_mesh(frames, depth=True)), frames.shape[1:3])


def visual_of_mesh(config: UniSyncConfig, mesh: NDArray[np.float32], size: tuple[int, ...]) -> Tensor:
    """Make from a face's mesh what an expert on anything but colours looks at, frame by frame.

    Args:
        config: of the expert, that :func:`check_provided` lets pass.
        mesh: (T, 468, 3) of :func:`unisync_loss.faces.face_mesh`, without gaps.
        size: height and width of the frames in pixels.

    Returns:
        (1, T, …); see :func:`visual_of_frames`.
    """
    height, width = size
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
        landmark_layout(count)


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
    index, axes = landmark_layout(features)
    return mesh[..., index, :axes]


def landmark_layout(features: int) -> tuple[list[int], int]:
    """Mesh points and axes of an expert's landmarks.

    Raises:
        ValueError: for coordinates that cannot be made from video.
    """
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
    return parsing_of_rings(mesh[:, RINGS], size)


def parsing_of_rings(rings: NDArray[np.float32], size: int = MAP_SIZE) -> NDArray[np.uint8]:
    """Paint the groups from the points that bound them.

    Args:
        rings: (T, 76, 2) the mesh points :data:`RINGS` as shares of width and height.
        size: pixels of the map's sides.

    Returns:
        (T, size, size) labels, as :func:`parsing_of_mesh`.
    """
    oval, outer, inner = np.split(np.arange(len(RINGS)), np.cumsum([len(FACE_OVAL), len(OUTER_LIPS)]))
    # both rings of the lips run along the lower side to the left corner and back along the upper one
    turn = LEFT_CORNER + 1
    lower = [*outer[:turn], *reversed(inner[:turn])]
    upper = [*outer[LEFT_CORNER:], outer[0], inner[0], *reversed(inner[LEFT_CORNER:])]
    areas = {"skin": oval, "upper_lip": upper, "lower_lip": lower, "mouth": inner}
    labels = np.zeros((len(rings), size, size), np.uint8)
    for group, ring in areas.items():
        labels[inside(rings[:, ring], size)] = PARSING_GROUPS.index(group)
    return labels


def inside(polygons: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside a polygon, by the even-odd rule.

    Args:
        polygons: (T, V, 2) corners as shares of width and height, a polygon a picture.
        size: pixels of the sides.

    Returns:
        (T, size, size).
    """
    centres = (np.arange(size) + 0.5) / size
    x, y = np.moveaxis(polygons.astype(np.float64), 2, 0)[..., None]  # (T, edges, 1)
    next_x, next_y = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    picture, edge, row = np.nonzero((y > centres) != (next_y > centres))  # (T, edges, rows)
    start, end = (x[picture, edge, 0], y[picture, edge, 0]), (next_x[picture, edge, 0], next_y[picture, edge, 0])
    crossing = start[0] + (end[0] - start[0]) / (end[1] - start[1]) * (centres[row] - start[1])
    # how many pixel centres of the row lie before the crossing; a pixel is inside after an odd number of crossings
    column = np.clip(np.ceil(crossing * size - 0.5), 0, size).astype(np.int64)
    place = (picture * size + row) * (size + 1) + column
    count = np.bincount(place, minlength=len(polygons) * size * (size + 1)).astype(np.uint8)
    table = rearrange(count, "(t r c) -> t r c", t=len(polygons), r=size)
    odd: NDArray[np.bool_] = np.cumsum(table, axis=2, dtype=np.uint8)[:, :, :size] % 2 == 1
    return odd
