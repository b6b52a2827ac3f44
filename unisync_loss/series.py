"""Landmarks, coefficients and parsing maps in training: a few numbers a frame, from which the expert's input is made.

Axes: N segments, L frames, E numbers of a frame; V = 2 views, as seen and in the mirror.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.cache import MESH_CENTRE, CachedMesh
from unisync_loss.config import UniSyncConfig
from unisync_loss.face_model import expression_of_mesh, mirrored_points
from unisync_loss.providers import RINGS, landmark_layout, landmarks_of_mesh, parsing_of_rings
from unisync_loss.representations.landmarks import normalise_landmarks


def series_of_mesh(config: UniSyncConfig, cached: CachedMesh) -> NDArray[np.float32]:
    """Make of a measured mesh what augmentation works on.

    Args:
        config: of an expert on landmarks, 3dmm or parsing, as ``providers.check_provided`` accepts it.
        cached: the mesh of T frames.

    Returns:
        (T, 2, E): normalised landmarks, coefficients, or for parsing the points that bound its groups, as shares of
        width and height; as seen, and in the mirror.
    """
    mesh = cached.mesh.astype(np.float32)
    image = mesh[:, list(mirrored_points())] * np.asarray([-1, 1, 1], np.float32)
    both = torch.from_numpy(np.stack([mesh, image], axis=1) + np.asarray(MESH_CENTRE, np.float32))
    if config.visual == "parsing":
        return rearrange(both[:, :, list(RINGS), :2], "t v n d -> t v (n d)").numpy()
    height, width = cached.size.tolist()
    pixels = both * torch.tensor([width, height, width], dtype=torch.float32)
    if config.visual == "3dmm":
        return expression_of_mesh(pixels).numpy()
    points = normalise_landmarks(landmarks_of_mesh(pixels, config.visual_features))
    return rearrange(points, "t v n d -> t v (n d)").numpy()


def visual_of_series(config: UniSyncConfig, series: Tensor) -> Tensor:
    """Make of (N, L, E) numbers what the expert takes: (N, L, points, axes), (N, L, E), or labels (N, L, 128, 128)."""
    if config.visual == "3dmm":
        return series
    if config.visual == "landmarks":
        return rearrange(series, "n l (p d) -> n l p d", d=landmark_layout(config.visual_features)[1])
    rings = rearrange(series, "n l (p d) -> (n l) p d", d=2)
    labels = torch.from_numpy(parsing_of_rings(rings.cpu().numpy()))
    return rearrange(labels, "(n l) h w -> n l h w", n=len(series)).to(series.device)
