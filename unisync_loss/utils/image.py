"""Differentiable resize and affine sampling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.utils.tensors import at_least_float32

FACE_SIZE = 64  # pixels of the view that the pose is read from


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Differentiable anti-aliased resize of (N, C, H, W), in float32 at least."""
    frames = at_least_float32(frames)
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bilinear", antialias=True, align_corners=False)


def compose_affine(outer: Tensor, inner: Tensor) -> Tensor:
    """Affine map ``outer`` after ``inner``, (N, 2, 3) or (2, 3)."""
    linear, shift = outer[..., :2], outer[..., 2:]
    return torch.cat([linear @ inner[..., :2], linear @ inner[..., 2:] + shift], dim=-1)


def invert_affine(affine: Tensor) -> Tensor:
    """Inverse of an affine map (..., 2, 3)."""
    inverse = torch.linalg.inv(affine[..., :2])
    return torch.cat([inverse, -inverse @ affine[..., 2:]], dim=-1)


def sample_region(frames: Tensor, region: Tensor, size: int = FACE_SIZE, oversample: int = 2) -> Tensor:
    """Cut square views; ``region`` (N, 2, 3) maps shares of the view to shares of the frame."""
    fine = size * oversample
    steps = (torch.arange(fine, device=frames.device, dtype=region.dtype) + 0.5) / fine
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    grid = 2 * torch.einsum("nij,hwj->nhwi", region, torch.stack([xs, ys, torch.ones_like(xs)], dim=-1)) - 1
    cut = F.grid_sample(frames, grid.to(frames.dtype), padding_mode="border", align_corners=False)
    return F.avg_pool2d(cut, oversample)
