"""Shapes, batch sizes and devices of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.utils.tensors import describe


def check_batch(video: Tensor, audio: Tensor, device: torch.device) -> None:
    """Check that video and audio are batches of one size on one device.

    Args:
        video: (B, …).
        audio: (B, …).
        device: of the loss.

    Raises:
        ValueError: for anything else than two tensors of at least two axes, an empty batch, two batch sizes, or another
            device.
    """
    for name, value in (("video", video), ("audio", audio)):
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] == 0:
            raise ValueError(f"{name}: expected a batch (B, …), got {describe(value)}")
    if video.shape[0] != audio.shape[0]:
        sizes = f"{video.shape[0]} (video) and {audio.shape[0]} (audio)"
        raise ValueError(f"expected one audio clip per video, got batch sizes {sizes}")
    if not video.device == audio.device == device:
        raise ValueError(
            f"expected video and audio on the loss's device {device}, got {video.device} and {audio.device}: "
            "move them, or the loss with .to()"
        )
