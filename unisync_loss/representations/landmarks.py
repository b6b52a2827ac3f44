"""Facial landmarks, any number of points in 2-D or 3-D."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from unisync_loss.representations.base import VisualInput


class LandmarksInput(VisualInput):
    """Points (B, T, N, 2 or 3) → (B, T, N·dimensions), centred on each frame's mean and of unit size."""

    @property
    def expected(self) -> str:  # type: ignore[override]
        """The shape, with this expert's number of coordinates."""
        return f"(B, T, N, 2 or 3) floating point with {self.config.visual_features} coordinates a frame"

    def forward(self, video: Tensor) -> Tensor:
        """Check and normalise; see the class for shapes."""
        if not isinstance(video, Tensor) or video.ndim != 4 or not video.is_floating_point():
            raise self.refuse(video)
        if video.shape[3] not in (2, 3) or video.shape[2] * video.shape[3] != self.config.visual_features:
            raise self.refuse(video)
        centred = video - video.mean(2, keepdim=True)
        size = centred.square().sum(3, keepdim=True).mean(2, keepdim=True).sqrt()
        return rearrange(centred / size.clamp(min=1e-6), "b t n d -> b t (n d)")
