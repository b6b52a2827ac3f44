"""Differentiable resizing, standardising and affine sampling of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.utils.tensors import at_least_float32

FACE_SIZE = 64  # pixels of the view from which the pose is estimated


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Differentiable anti-aliased resize of (N, C, H, W), in float32 at least."""
    frames = at_least_float32(frames)
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bilinear", antialias=True, align_corners=False)


def standardise_images(images: Tensor) -> Tensor:
    """Images (N, C, H, W) of mean 0 and deviation 1 each: light and camera carry nothing about speech or pose."""
    centred = images - images.mean((1, 2, 3), keepdim=True)
    variance = centred.square().sum((1, 2, 3), keepdim=True) / (images[0].numel() - 1)  # four times as fast as var()
    return centred / variance.add(1e-4).sqrt()  # 0.01 of the range: a blank image stays blank


def compose_affine(outer: Tensor, inner: Tensor) -> Tensor:
    """Affine map ``outer`` after ``inner``, (N, 2, 3) or (2, 3)."""
    linear, shift = outer[..., :2], outer[..., 2:]
    return torch.cat([linear @ inner[..., :2], linear @ inner[..., 2:] + shift], dim=-1)


def subregion(affine: Tensor, corner: tuple[float, float], side: float) -> Tensor:
    """Affine map (..., 2, 3) of a square with that corner and side, after a map of the plane that it lies in."""
    linear, shift = affine[..., :2], affine[..., 2:]
    shift = linear[..., :1] * corner[0] + linear[..., 1:] * corner[1] + shift
    return torch.cat([linear * side, shift], dim=-1)


def invert_affine(affine: Tensor) -> Tensor:
    """Inverse of an affine map (..., 2, 3)."""
    inverse = torch.linalg.inv(affine[..., :2])
    return torch.cat([inverse, -inverse @ affine[..., 2:]], dim=-1)


def finite_affine(affine: Tensor) -> tuple[Tensor, Tensor]:
    """Replace NaN and infinity of affine maps: the backward pass of ``grid_sample`` writes outside its memory for them.

    Args:
        affine: (N, 2, 3).

    Returns:
        The map with zeros in their place, and (N, 1, 1, 1) to be added to what it cuts: 0, or NaN where it had any.
    """
    lost = 0 * affine.detach().sum((1, 2))
    # 100 sides away lies nothing but the border; a grid of larger numbers may overflow
    return affine.nan_to_num(0.0).clamp(-100, 100), lost[:, None, None, None]


def sample_region(frames: Tensor, region: Tensor, size: int = FACE_SIZE, oversample: int = 2) -> Tensor:
    """Cut square views out of frames, differentiably; outside a frame, its border is repeated.

    Args:
        frames: (N, C, H, W).
        region: (N, 2, 3) affine maps from shares of the view to shares of the frame.
        size: pixels of the view.
        oversample: samples per pixel and axis of the view, averaged.

    Returns:
        (N, C, size, size); NaN where the map is not finite.
    """
    region, lost = finite_affine(region)
    linear, shift = region[..., :2], region[..., 2:]
    # from shares in [0, 1] on both sides to grid_sample's coordinates in [-1, 1]
    theta = torch.cat([linear, linear.sum(-1, keepdim=True) + 2 * shift - 1], dim=-1)
    fine = size * oversample
    with torch.autocast(device_type=frames.device.type, enabled=False):  # bfloat16 places samples to a percent
        grid = F.affine_grid(theta, [len(frames), 1, fine, fine], align_corners=False)
    cut = F.grid_sample(frames, grid.to(frames.dtype), padding_mode="border", align_corners=False)
    return F.avg_pool2d(cut, oversample) + lost.to(cut.dtype)
