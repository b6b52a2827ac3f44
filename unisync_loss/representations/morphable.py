"""Expression coefficients of a 3-D morphable model."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.representations.base import VisualInput


class MorphableInput(VisualInput):
    """Coefficients (B, T, E) → the same, standardised by the mean and deviation stored with the weights."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: UniSyncConfig) -> None:
        """Start with mean 0 and deviation 1."""
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.visual_features))
        self.register_buffer("deviation", torch.ones(config.visual_features))

    @property
    def expected(self) -> str:  # type: ignore[override]
        """The shape, with this expert's number of coefficients."""
        return f"(B, T, {self.config.visual_features}) floating point"

    def forward(self, video: Tensor) -> Tensor:
        """Check and standardise; see the class for shapes."""
        if not isinstance(video, Tensor) or video.ndim != 3 or not video.is_floating_point():
            raise self.refuse(video)
        if video.shape[2] != self.config.visual_features:
            raise self.refuse(video)
        return (video - self.mean) / self.deviation
