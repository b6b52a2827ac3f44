"""What a call of the loss draws: windows to score, frames that a gradient reaches."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.models.layers import GradientFrames
from unisync_loss.utils.tensors import whole_number


def draw_windows(count: int, windows: int | None, device: torch.device) -> Tensor | None:
    """Draw some of the windows.

    Args:
        count: number of all windows.
        windows: number of windows to draw.
        device: of the result.

    Returns:
        (K,) their places, in order; None for all.

    Raises:
        ValueError: for less than 1.
    """
    if windows is None:
        return None
    number = whole_number("windows", windows)
    if number < 1:
        raise ValueError(f"windows: expected at least 1, got {number}")
    return None if number >= count else torch.randperm(count, device=device)[:number].sort().values


def draw_gradient_frames(frames: int, grad_frames: int | range | None, device: torch.device) -> GradientFrames | None:
    """Draw a run of successive frames, or take the one given.

    Args:
        frames: T of the video.
        grad_frames: number of frames, or the places of the run.
        device: of the result.

    Returns:
        The frames that a gradient reaches; None for all.

    Raises:
        ValueError: for no frame, or places beyond the video or with gaps.
    """
    if grad_frames is None:
        return None
    first: int | Tensor
    if isinstance(grad_frames, range):
        first, count = grad_frames.start, len(grad_frames)
        fits = grad_frames.step == 1 and first >= 0 and first + count <= frames
    else:
        count, fits = min(whole_number("grad_frames", grad_frames), frames), True
        first = torch.randint(frames - count + 1, (), device=device)
    if count < 1 or not fits:
        raise ValueError(
            f"grad_frames: expected 1 frame or more of T = {frames}, one after the other, got {grad_frames}"
        )
    order = (torch.arange(frames, device=device) + first) % frames
    return GradientFrames(order, count) if count < frames else None
