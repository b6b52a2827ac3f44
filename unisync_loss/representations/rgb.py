"""Colour frames of a face crop."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from unisync_loss.aligner import resize
from unisync_loss.representations.base import VisualInput

IMAGE_SIZE = 96  # pixels, as Wav2Lip's


def lower_half(video: Tensor, size: int = IMAGE_SIZE) -> Tensor:
    """Resize frames to a square and keep the lower half, differentiably.

    Args:
        video: (B, T, C, H, W), any H and W; the aspect ratio is not kept, as in Wav2Lip.
        size: side of the square in pixels, even.

    Returns:
        (B, T, C, size // 2, size).
    """
    frames = resize(rearrange(video, "b t c h w -> (b t) c h w"), size, size)
    return rearrange(frames[..., size // 2 :, :], "(b t) c h w -> b t c h w", b=video.shape[0])


class RGBInput(VisualInput):
    """RGB (B, T, 3, H, W) in [0, 1] → the same, checked."""

    expected = "(B, T, 3, H, W) floating point in [0, 1], T at least 5, H and W at least 16"

    def forward(self, video: Tensor) -> Tensor:
        """Check; see the class for shapes."""
        if not isinstance(video, Tensor) or not video.is_floating_point() or video.ndim != 5:
            raise self.refuse(video)
        if video.shape[2] != 3 or min(video.shape[3:]) < 16:
            raise self.refuse(video)
        return video
