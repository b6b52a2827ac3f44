"""Colour frames of a face crop."""

from __future__ import annotations

from torch import Tensor

from unisync_loss.representations.base import VisualInput


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
