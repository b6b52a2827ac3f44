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

from unisync_loss.config import UniSyncConfig
from unisync_loss.representations.face_topology import RINGS, landmark_layout
from unisync_loss.video.expressions import EXPRESSIONS, expression_of_mesh
from unisync_loss.video.face_mesh import face_mesh, fill_gaps
from unisync_loss.video.parsing_maps import paint

MAP_SIZE = 128  # pixels of a side of a parsing map


def visual_of_frames(config: UniSyncConfig, frames: NDArray[np.uint8]) -> Tensor:
    """Make from a clip what an expert looks at.

    Args:
        config: of the expert.
        frames: (T, H, W, 3) uint8 RGB, one face.

    Returns:
        (1, T, …) as the config's visual representation defines it: colours in [0, 1], shares of the parsing groups,
        landmarks in pixels, or coefficients of :mod:`unisync_loss.video.expressions`.

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
        mesh: (T, 468, 3) of :func:`unisync_loss.video.face_mesh.face_mesh`, without gaps.
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


def parsing_of_mesh(mesh: NDArray[np.float32], size: int = MAP_SIZE) -> NDArray[np.float32]:
    """Paint the groups of a parsing map: the oval of the face, the nose, both lips and what is between them.

    Args:
        mesh: (T, 468, 2) as shares of width and height.
        size: pixels of the map's sides.

    Returns:
        (T, 6, size, size) shares of each pixel, of :data:`unisync_loss.config.PARSING_GROUPS`.
    """
    return paint(mesh[:, RINGS], size)
