"""Face parsing maps: class probabilities, or labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.representations.base import VisualInput


class ParsingInput(VisualInput):
    """Probabilities (B, T, P, H, W) or integer labels (B, T, H, W) below P → (B, T, P, H, W)."""

    @property
    def expected(self) -> str:  # type: ignore[override]
        """The shape, with this expert's number of groups."""
        groups = self.config.visual_features
        return f"(B, T, {groups}, H, W) probabilities or (B, T, H, W) whole-number labels below {groups}"

    def forward(self, video: Tensor) -> Tensor:
        """Check and convert; see the class for shapes."""
        groups = self.config.visual_features
        if (
            isinstance(video, Tensor)
            and video.ndim == 4
            and not video.is_floating_point()
            and video.dtype != torch.bool
        ):
            if video.min() < 0 or video.max() >= groups:
                raise ValueError(
                    f"video: expected labels in [0, {groups}), got {int(video.min())} … {int(video.max())}"
                )
            return F.one_hot(video.long(), groups).movedim(-1, 2).to(torch.get_default_dtype())
        if (
            not isinstance(video, Tensor)
            or video.ndim != 5
            or video.shape[2] != groups
            or not video.is_floating_point()
        ):
            raise self.refuse(video)
        return video
