"""Expression coefficients of a 3-D morphable face model."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.representations.base import VisualInput
from unisync_loss.utils.tensors import describe

#: the model that a number of coefficients usually comes from, for error messages
_USUAL = {
    10: "expression of 3DDFA",
    40: "expression of this library's face model",
    50: "expression of FLAME",
    52: "ARKit's blendshapes",
    53: "expression and jaw of FLAME",
    64: "expression of Deep3DFaceRecon (Basel)",
    100: "expression of FLAME",
    257: "all coefficients of Deep3DFaceRecon: expression is 80 to 143",
}
_LEAST_DEVIATION = 1e-6  # below it a coefficient counts as constant


class MorphableInput(VisualInput):
    """Coefficients (B, T, E) → the same, standardised by the mean and deviation stored with the weights.

    E is that of the training data: 64 (Deep3DFaceRecon, the default), 50 or 53 (FLAME), 52 (ARKit blendshapes),
    10 (3DDFA), 40 (this library's own face model, computed from video) or any other.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.visual_features))
        self.register_buffer("deviation", torch.ones(config.visual_features))

    @property
    def expected(self) -> str:
        """The shape, with this expert's number of coefficients."""
        return f"(B, T, {self.config.visual_features}) floating point"

    def accepts(self, video: Tensor) -> bool:
        """Whether number of axes and type of number are as expected."""
        return video.ndim == 3 and video.is_floating_point()

    def convert(self, video: Tensor) -> Tensor:
        """Standardise each coefficient.

        Raises:
            ValueError: for another number of coefficients.
        """
        if video.shape[2] != self.config.visual_features:
            usual = _USUAL.get(video.shape[2])
            raise self.refuse(video, f", which looks like {usual}" if usual else "")
        return (video - self.mean) / self.deviation

    def measure(self, coefficients: Tensor) -> None:
        """Take mean and deviation from training data; a coefficient that never changes keeps deviation 1.

        Args:
            coefficients: (N, E), N at least 2.

        Raises:
            ValueError: for another shape, or values that are not finite.
        """
        if coefficients.ndim != 2 or coefficients.shape[0] < 2 or coefficients.shape[1] != self.config.visual_features:
            raise ValueError(f"expected (N, {self.config.visual_features}) coefficients, got {describe(coefficients)}")
        deviation, mean = torch.std_mean(coefficients.double(), dim=0)
        if not torch.isfinite(deviation).all():
            raise ValueError("expected finite coefficients, got NaN or infinity")
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > _LEAST_DEVIATION, deviation, 1.0))
