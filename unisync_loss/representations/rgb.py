"""RGB frames of a face crop."""

from __future__ import annotations

from torch import Tensor

from unisync_loss.representations.base import VisualInput

LEAST_SIDE = 16  # pixels


class RGBInput(VisualInput):
    """RGB frames (B, T, 3, H, W) in [0, 1] → the same, checked."""

    is_image = True
    value_range = (0.0, 1.0)
    needs_mesh = False

    @property
    def expected(self) -> str:
        """The shape, with the smallest sizes."""
        return f"(B, T, 3, H, W) floating point in [0, 1], T at least 5, H and W at least {LEAST_SIDE}"

    def accepts(self, video: Tensor) -> bool:
        """Whether shape and type of number are as expected."""
        if video.ndim != 5 or not video.is_floating_point():
            return False
        return video.shape[2] == 3 and min(video.shape[3:]) >= LEAST_SIDE
