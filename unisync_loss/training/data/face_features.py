"""Landmarks, coefficients and parsing maps in training: a few numbers a frame, from which the expert's input is made.

Axes: N segments, L frames, E numbers of a frame; V = 2 views, as seen and in the mirror.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.models.small import MOUTH_SIZE
from unisync_loss.representations.face_topology import RINGS, landmark_layout
from unisync_loss.representations.landmarks import normalise_landmarks
from unisync_loss.training.data.cache import MESH_CENTRE, CachedMesh
from unisync_loss.video.expressions import expression_of_mesh, mirrored_points
from unisync_loss.video.extraction import MAP_SIZE, landmarks_of_mesh
from unisync_loss.video.parsing_maps import paint, paint_mouths


def series_of_mesh(config: UniSyncConfig, cached: CachedMesh) -> NDArray[np.float32]:
    """Make of a measured mesh what augmentation works on.

    Args:
        config: of an expert on landmarks, 3dmm or parsing, as ``providers.check_provided`` accepts it.
        cached: the mesh of T frames.

    Returns:
        (T, 2, E): normalised landmarks, coefficients, or for parsing shape and place of the points that bound its
        groups; as seen, and in the mirror.
    """
    mesh = cached.mesh.astype(np.float32)
    image = mesh[:, list(mirrored_points())] * np.asarray([-1, 1, 1], np.float32)
    both = torch.from_numpy(np.stack([mesh, image], axis=1) + np.asarray(MESH_CENTRE, np.float32))
    if config.visual == "parsing":
        return shape_and_place(both[:, :, list(RINGS), :2]).numpy()
    height, width = cached.size.tolist()
    pixels = both * torch.tensor([width, height, width], dtype=torch.float32)
    if config.visual == "3dmm":
        return expression_of_mesh(pixels).numpy()
    points = normalise_landmarks(landmarks_of_mesh(pixels, config.visual_features))
    return rearrange(points, "t v n d -> t v (n d)").numpy()


def shape_and_place(rings: Tensor) -> Tensor:
    """Points (..., G, 2) as what a face is like and where it is, (..., 2·G + 3): augmentation has use for either."""
    centre = rings.mean(-2, keepdim=True)
    size = (rings - centre).square().mean((-2, -1), keepdim=True).sqrt()
    shape = (rings - centre) / size
    return torch.cat([shape.flatten(-2), centre.flatten(-2), size.log().flatten(-2)], dim=-1)


def rings_of(series: Tensor) -> Tensor:
    """Points (..., G, 2) of what :func:`shape_and_place` made of them."""
    shape = rearrange(series[..., :-3], "... (n d) -> ... n d", d=2)
    return shape * series[..., -1:, None].exp() + series[..., None, -3:-1]


def visual_of_series(
    config: UniSyncConfig, series: Tensor, crop: Callable[[Tensor], Tensor] = lambda rings: rings
) -> Tensor:
    """Make of numbers what the expert takes; but of maps, which cost the most, small experts get the mouth alone.

    Args:
        config: of the expert.
        series: (N, L, E).
        crop: for maps, makes another crop of the points (N, L, G, 2), shares of width and height.

    Returns:
        (N, L, points, axes), (N, L, E), parsing maps (N, L, 6, 128, 128), or mouths cut out of them (N, L, 6, 48, 48).
    """
    if config.visual == "3dmm":
        return series
    if config.visual == "landmarks":
        return rearrange(series, "n l (p d) -> n l p d", d=landmark_layout(config.visual_features)[1])
    rings = rearrange(crop(rings_of(series)), "n l p d -> (n l) p d").cpu().numpy()
    maps = paint_mouths(rings, MOUTH_SIZE) if config.architecture == "small" else paint(rings, MAP_SIZE)
    return rearrange(torch.from_numpy(maps), "(n l) g h w -> n l g h w", n=len(series)).to(series.device)
