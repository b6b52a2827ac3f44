"""Landmarks, coefficients and parsing maps in training, as a few numbers per frame.

Axes: T frames of a clip, N segments, L frames of a segment, E numbers per frame; V = 2 views, as filmed and mirrored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.models.small import MOUTH_SIZE
from unisync_loss.representations.face_topology import RINGS, landmark_layout
from unisync_loss.representations.landmarks import normalise_landmarks
from unisync_loss.video.expressions import expression_of_mesh, mirrored_points
from unisync_loss.video.extraction import MAP_SIZE, landmarks_of_mesh
from unisync_loss.video.parsing_maps import paint, paint_mouths

MESH_CENTRE = (0.5, 0.5, 0.0)  # subtracted from the stored mesh: float16 is most precise near 0


def features_of_mesh(config: UniSyncConfig, mesh: NDArray[Any], size: NDArray[np.int64]) -> NDArray[np.float32]:
    """Make of a cached mesh the numbers that augmentation works on.

    Args:
        config: of an expert on landmarks, 3dmm or parsing, as ``extraction.check_provided`` accepts it.
        mesh: (T, 468, 3) shares of width, height and width, minus :data:`MESH_CENTRE`.
        size: (2,) height and width of the frames in pixels.

    Returns:
        (T, 2, E): normalised landmarks, coefficients, or for parsing :func:`shape_and_place` of the points that bound
        its groups; as filmed, and mirrored.
    """
    mesh = mesh.astype(np.float32)
    image = mesh[:, list(mirrored_points())] * np.asarray([-1, 1, 1], np.float32)
    both = torch.from_numpy(np.stack([mesh, image], axis=1) + np.asarray(MESH_CENTRE, np.float32))
    if config.visual == "parsing":
        return shape_and_place(both[:, :, list(RINGS), :2]).numpy()
    height, width = size.tolist()
    pixels = both * torch.tensor([width, height, width], dtype=torch.float32)
    if config.visual == "3dmm":
        return expression_of_mesh(pixels).numpy()
    points = normalise_landmarks(landmarks_of_mesh(pixels, config.visual_features))
    return rearrange(points, "t v n d -> t v (n d)").numpy()


def shape_and_place(rings: Tensor) -> Tensor:
    """Points (..., G, 2) as normalised shape, centre and log size, (..., 2·G + 3), which augmentation changes apart."""
    centre = rings.mean(-2, keepdim=True)
    size = (rings - centre).square().mean((-2, -1), keepdim=True).sqrt()
    shape = (rings - centre) / size
    return torch.cat([shape.flatten(-2), centre.flatten(-2), size.log().flatten(-2)], dim=-1)


def rings_of(features: Tensor) -> Tensor:
    """Inverse of :func:`shape_and_place`: (..., 2·G + 3) → (..., G, 2)."""
    shape = rearrange(features[..., :-3], "... (n d) -> ... n d", d=2)
    return shape * features[..., -1:, None].exp() + features[..., None, -3:-1]


def visual_of_features(
    config: UniSyncConfig, features: Tensor, crop: Callable[[Tensor], Tensor] = lambda rings: rings
) -> Tensor:
    """Make the expert's input; of parsing maps, which are slow to paint, small experts get the mouth alone.

    Args:
        config: of the expert.
        features: (N, L, E).
        crop: for maps, maps points (N, L, G, 2), shares of width and height, to those of another crop.

    Returns:
        Landmarks (N, L, points, axes), coefficients (N, L, E), parsing maps (N, L, 6, 128, 128), or mouths cut out of
        them (N, L, 6, 48, 48).
    """
    if config.visual == "3dmm":
        return features
    if config.visual == "landmarks":
        return rearrange(features, "n l (p d) -> n l p d", d=landmark_layout(config.visual_features)[1])
    rings = rearrange(crop(rings_of(features)), "n l p d -> (n l) p d").cpu().numpy()
    maps = paint_mouths(rings, MOUTH_SIZE) if config.architecture == "small" else paint(rings, MAP_SIZE)
    return rearrange(torch.from_numpy(maps), "(n l) g h w -> n l g h w", n=len(features)).to(features.device)
