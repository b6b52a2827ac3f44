"""Visual representations made from video frames by MediaPipe's face mesh.

Generators pass their own landmarks, maps or coefficients; training and scoring from video make them here.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.representations.face_topology import RINGS, landmark_layout
from unisync_loss.utils.tensors import Array
from unisync_loss.video.expressions import EXPRESSIONS, expression_of_mesh
from unisync_loss.video.parsing_maps import paint

MAP_SIZE = 128  # pixels per side of a parsing map


def visual_of_features(config: UniSyncConfig, features: Array) -> Tensor:
    """Take stored coefficients or parsing maps for an expert on that representation.

    Args:
        config: of the expert.
        features: of :func:`unisync_loss.data.clips.clip_features`.

    Returns:
        (1, T, …), the same values.

    Raises:
        ValueError: for another number of coefficients than the expert takes.
    """
    if config.visual == "3dmm" and features.shape[1] != config.visual_features:
        raise ValueError(f"3dmm: expected {config.visual_features} coefficients, got {features.shape[1]}")
    return torch.from_numpy(features)[None]


def visual_of_mesh(config: UniSyncConfig, mesh: NDArray[np.float32], size: tuple[int, ...]) -> Tensor:
    """Make the visual representation of an expert that takes no images from a face mesh, frame by frame.

    Args:
        config: of the expert, accepted by :func:`check_provided`.
        mesh: (T, 468, 3) of :func:`unisync_loss.video.face_mesh.face_mesh`, without gaps.
        size: height and width of the frames in pixels.

    Returns:
        (1, T, …) as the config's visual representation defines it: probabilities of the parsing groups, landmarks in
        pixels, or coefficients of :mod:`unisync_loss.video.expressions`.
    """
    height, width = size
    if config.visual == "parsing":
        return torch.from_numpy(parsing_of_mesh(mesh[:, :, :2]))[None]
    pixels = torch.from_numpy(mesh * np.array([width, height, width], np.float32))[None]
    return expression_of_mesh(pixels) if config.visual == "3dmm" else landmarks_of_mesh(pixels, config.visual_features)


def check_provided(config: UniSyncConfig) -> None:
    """Refuse a config whose representation cannot be made from video.

    Raises:
        ValueError: for landmarks with irises, or coefficients of another face model.
    """
    count = config.visual_features
    if config.visual == "3dmm" and count != EXPRESSIONS:
        raise ValueError(
            f"3dmm: expected the {EXPRESSIONS} coefficients that are made from video, got an expert on {count} of "
            "another face model: store that model's coefficients with unisync prepare --features and use the store"
        )
    if config.visual == "landmarks":
        landmark_layout(count)


def landmarks_of_mesh(mesh: Tensor, features: int) -> Tensor:
    """Select the landmarks that an expert takes.

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
    """Draw the groups of a parsing map: the face oval, the nose, both lips and the area between them.

    Args:
        mesh: (T, 468, 2) as fractions of width and height.
        size: pixels of the map's sides.

    Returns:
        (T, 6, size, size) fractions of each pixel, of :data:`unisync_loss.config.PARSING_GROUPS`.
    """
    return paint(mesh[:, RINGS], size)
