"""Mask and weights of a batch: which frames are padding, and how much each window counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.utils.tensors import describe


def frame_mask(video: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask as booleans (B, T) if it is one of frames, None if there is none or it is one of windows."""
    return mask.bool() if isinstance(mask, Tensor) and mask.shape == video.shape[:2] else None


def blank_padding(video: Tensor, frames: Tensor | None) -> Tensor:
    """Replace padding by zeros, which reach neither a value nor a gradient: padding may hold anything, also NaN.

    Args:
        video: (B, T, …).
        frames: (B, T) of :func:`frame_mask`, False for padding.
    """
    if frames is None:
        return video
    return video.where(frames[(...,) + (None,) * (video.ndim - 2)], 0)


def window_weights(
    shape: Sequence[int], video: Tensor, mask: Tensor | None, weights: Tensor | None, stride: int
) -> Tensor:
    """Combine mask and weights.

    Args:
        shape: (B, W).
        video: (B, T, …).
        mask: (B, T) per frame, where a window counts if all its frames do, or (B, W) per window.
        weights: (B, W), or (B,) or (B, 1) per clip.
        stride: frames from one window to the next.

    Returns:
        (B, W), 0 where masked.

    Raises:
        ValueError: for other shapes.
    """
    shape = tuple(shape)
    result = torch.ones(shape, device=video.device)
    if weights is not None:
        clips = shape[:1]
        if not isinstance(weights, Tensor) or weights.shape not in (shape, clips, (*clips, 1)):
            raise ValueError(f"weights: expected (B, W) = {shape}, or (B,) or (B, 1) per clip, got {describe(weights)}")
        result = result * (weights[:, None] if weights.ndim == 1 else weights)
    if mask is None:
        return result
    by_frame = frame_mask(video, mask)
    if by_frame is not None:
        return result * by_frame.unfold(1, WINDOW_FRAMES, stride).all(-1)
    if not isinstance(mask, Tensor) or mask.shape != shape:
        expected = f"(B, T) = {tuple(video.shape[:2])} or (B, W) = {shape}"
        raise ValueError(f"mask: expected {expected}, got {describe(mask)}")
    return result * mask.bool()
