"""GeneFace (yerfor/GeneFace at 15ff4e5): its sync term by a UniSync expert, and a switch that its trainer keeps.

The README beside this file names the lines to change.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from unisync_loss import SyncTerms, UniSyncLoss, points_of_idexp

logger = logging.getLogger(__name__)
_MOUTH = slice(48, 68)  # of the 68 points, GeneFace's and iBUG's


class GeneFaceSync(nn.Module):
    """The sync term of GeneFace's audio2motion and postnet tasks.

    It stands in for their ``SyncNetTask``, which goes back to train mode with the task after the first validation. This
    one cannot; it takes no part in the task's parameters, optimisers and checkpoints.

    Args:
        loss: of a HuBERT-landmarks expert on 68 or 20 points, 3-D or 2-D.

    Raises:
        ValueError: for another expert.

    Example:
        >>> sync = GeneFaceSync(UniSyncLoss.from_pretrained("hubert-landmarks"))  # doctest: +SKIP
        >>> sync(model_out["pred"], sample["hubert"], model_out["mask"]).backward()  # doctest: +SKIP
    """

    def __init__(self, loss: UniSyncLoss) -> None:
        """Check the expert."""
        super().__init__()
        config = loss.expert.config
        if config.name != "hubert-landmarks" or config.visual_features not in (204, 136, 60, 40):
            raise ValueError(
                "GeneFace's batches carry HuBERT and 68 landmarks: expected a hubert-landmarks expert on 68 or 20 "
                f"points, got {config.name} on {config.visual_features} values a frame"
            )
        self.loss = loss

    def forward(self, landmarks: Tensor, hubert: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score predicted landmarks.

        Args:
            landmarks: (B, T, 204) ``idexp_lm3d`` as predicted, or (B, T, 60) its mouth; not standardised.
            hubert: (B, 2 T, F) features of the expert's HuBERT, F = 1024 in GeneFace.
            mask: (B, T) ``y_mask``, 0 where the batch is padded; None where it is not.

        Returns:
            Scalar, the mean of ``-log p`` over the windows that hold no padding.

        Raises:
            ValueError: for another shape. The loss of a batch of padding alone is 0.
        """
        return self.terms(landmarks, hubert, mask).loss

    def terms(self, landmarks: Tensor, hubert: Tensor, mask: Tensor | None = None) -> SyncTerms:
        """Score predicted landmarks window by window, for logs.

        Args:
            landmarks: see :meth:`forward`.
            hubert: see :meth:`forward`.
            mask: see :meth:`forward`.

        Returns:
            The loss, and ``probability`` (B, T - 4) with its weights.

        Raises:
            ValueError: see :meth:`forward`.
        """
        shapes = [tuple(value.shape) for value in (landmarks, hubert) if isinstance(value, Tensor)]
        if len(shapes) < 2 or len(shapes[0]) != 3 or shapes[0][2] not in (204, 60):
            raise ValueError(f"expected landmarks (B, T, 204 or 60) and hubert (B, 2 T, F), got {shapes}")
        batch, frames = shapes[0][:2]
        if len(shapes[1]) != 3 or shapes[1][:2] != (batch, 2 * frames):
            raise ValueError(f"hubert: expected (B, 2 T, F) with B, T = {batch}, {frames}, got {shapes[1]}")
        if mask is not None and mask.shape != (batch, frames):
            raise ValueError(f"mask: expected (B, T) = {(batch, frames)}, got {tuple(mask.shape)}")
        terms = self.loss(self._points(landmarks), hubert, mask=mask, return_terms=True)
        assert isinstance(terms, SyncTerms)
        return terms

    def _points(self, landmarks: Tensor) -> Tensor:
        """What the expert looks at, (B, T, N, 2 or 3)."""
        points = points_of_idexp(landmarks)
        features = self.loss.expert.config.visual_features
        if features in (60, 40) and points.shape[2] == 68:
            points = points[:, :, _MOUTH]
        axes = 3 if features in (204, 60) else 2
        if points.shape[2] * axes != features:
            raise ValueError(
                f"landmarks: expected all 68 points for an expert on {features} values, got the mouth's 20"
            )
        return points[..., :axes]


class SyncSwitch(nn.Module):
    """Weight of the sync term: 0 until the held-out sync loss is low, then full, for good.

    GeneFace keeps this switch in a plain attribute, which a resumed run forgets. Its trainer saves those children of a
    task that have parameters: so the switch is one, without gradient, and GeneFace's own checkpoints keep it.

    Args:
        weight: once switched on.
        threshold: held-out loss (mean ``-log p``) at or below which it switches on.

    Example:
        >>> switch = SyncSwitch(0.01)
        >>> float(switch.weight), switch.update(0.6), round(float(switch.weight), 3)
        (0.0, True, 0.01)
    """

    def __init__(self, weight: float = 0.01, *, threshold: float = 0.75) -> None:
        """Start switched off."""
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight: expected 0 or more, got {weight}")
        self.final, self.threshold = weight, threshold
        self.enabled = nn.Parameter(torch.zeros(()), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weight now, a scalar on the switch's device."""
        return self.final * self.enabled.detach()

    def update(self, held_out_loss: float) -> bool:
        """Switch on where the held-out loss is low; returns whether it is on."""
        if held_out_loss <= self.threshold and not bool(self.enabled):
            self.enabled.fill_(1.0)
            logger.info(
                "sync loss %.3f is at or below %.3f: its weight is %g", held_out_loss, self.threshold, self.final
            )
        return bool(self.enabled)
