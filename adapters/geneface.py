"""GeneFace (yerfor/GeneFace at 15ff4e5): replacement for its sync term and a switch that its checkpoints keep.

The sync term is also that of MimicTalk and Real3DPortrait. ``docs/clients.md`` lists the lines to change.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from unisync_loss import SyncTerms, UniSyncLoss
from unisync_loss.inputs.batch import check_type
from unisync_loss.representations import points_of_idexp
from unisync_loss.utils.tensors import describe, real_number

__all__ = ["GeneFaceSync", "SyncSwitch"]

logger = logging.getLogger(__name__)
_MOUTH = slice(48, 68)  # mouth points among the 68 of iBUG, which GeneFace uses


class GeneFaceSync(nn.Module):
    """Sync term for GeneFace's audio2motion and postnet tasks.

    It replaces their ``SyncNetTask``, which returns to train mode with the task after the first validation. This
    one stays in eval mode and is not part of the task's parameters, optimisers or checkpoints.

    Args:
        loss: loss with a hubert-landmarks expert on 68 or 20 points, 3-D or 2-D.

    Raises:
        ValueError: for a name in place of a loss, or any other expert.

    Example:
        >>> sync = GeneFaceSync(UniSyncLoss.from_pretrained("hubert-landmarks"))  # doctest: +SKIP
        >>> sync(model_out["pred"], sample["hubert"], model_out["mask"]).backward()  # doctest: +SKIP
    """

    def __init__(self, loss: UniSyncLoss) -> None:
        super().__init__()
        check_type("loss", loss, UniSyncLoss, "UniSyncLoss.from_pretrained")
        config = loss.expert.config
        if config.name != "hubert-landmarks" or config.visual_features not in (204, 136, 60, 40):
            raise ValueError(
                "GeneFace trains on HuBERT and 68 landmarks: expected a hubert-landmarks expert on 68 or 20 points, "
                f"got {config.name} on {config.visual_features} values per frame"
            )
        self.loss = loss

    def forward(self, landmarks: Tensor, hubert: Tensor, mask: Tensor | None = None) -> Tensor:
        """Score predicted landmarks.

        Args:
            landmarks: (B, T, 204) predicted ``idexp_lm3d``, (B, T, 60) its mouth points, or (B, T, 1404) that of
                MimicTalk and Real3DPortrait; not standardised.
            hubert: (B, 2T, F) features of the expert's HuBERT, F = 1024 in GeneFace.
            mask: (B, T) ``y_mask``, 0 in padding; None without padding.

        Returns:
            Scalar, the mean of ``-log p`` over windows without padding; 0 if there is none.

        Raises:
            ValueError: for other shapes.
        """
        return self.terms(landmarks, hubert, mask).loss

    def terms(self, landmarks: Tensor, hubert: Tensor, mask: Tensor | None = None) -> SyncTerms:
        """Score predicted landmarks per window, for logging.

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
        if len(shapes) < 2 or len(shapes[0]) != 3 or shapes[0][2] not in (204, 60, 1404):
            raise ValueError(f"expected landmarks (B, T, 204, 60 or 1404) and hubert (B, 2T, F), got {shapes}")
        batch, frames = shapes[0][:2]
        if len(shapes[1]) != 3 or shapes[1][:2] != (batch, 2 * frames):
            raise ValueError(f"hubert: expected (B, 2T, F) with B, T = {batch}, {frames}, got {shapes[1]}")
        if mask is not None and (not isinstance(mask, Tensor) or mask.shape != (batch, frames)):
            raise ValueError(f"mask: expected (B, T) = {(batch, frames)}, got {describe(mask)}")
        terms = self.loss(self._points(landmarks), hubert, mask=mask, return_terms=True)
        assert isinstance(terms, SyncTerms)
        return terms

    def _points(self, landmarks: Tensor) -> Tensor:
        """Landmarks in the layout of the expert, (B, T, N, 2 or 3)."""
        points = points_of_idexp(landmarks)
        features = self.loss.expert.config.visual_features
        if features in (60, 40) and points.shape[2] == 68:
            points = points[:, :, _MOUTH]
        axes = 3 if features in (204, 60) else 2
        if points.shape[2] * axes != features:
            raise ValueError(
                f"landmarks: expected all 68 points for an expert on {features} values, got the 20 of the mouth"
            )
        return points[..., :axes]


class SyncSwitch(nn.Module):
    """Weight of the sync term: 0 until the held-out sync loss is low, then the full weight permanently.

    GeneFace keeps this switch in a plain attribute, which is lost on resume. Its trainer saves the children of a task
    that have parameters; the switch is therefore a module with one parameter, without gradient.

    Args:
        weight: weight after switching on, at least 0.
        threshold: held-out loss (mean ``-log p``) at or below which it switches on.

    Raises:
        ValueError: for a negative weight.

    Example:
        >>> switch = SyncSwitch(0.01)
        >>> float(switch.weight), switch.update(0.6), round(float(switch.weight), 3)
        (0.0, True, 0.01)
    """

    # weight and threshold as in GeneFace's tasks/audio2motion/lm3d_vae_sync.py; a loss of 0.75 is a probability of 0.47
    def __init__(self, weight: float = 0.01, *, threshold: float = 0.75) -> None:
        super().__init__()
        self.final, self.threshold = real_number("weight", weight), real_number("threshold", threshold)
        if self.final < 0:
            raise ValueError(f"weight: expected 0 or more, got {weight}")
        self.enabled = nn.Parameter(torch.zeros(()), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """Current weight, a scalar on the device of the switch."""
        return self.final * self.enabled.detach()  # a tensor: reading its value would make a GPU wait

    def update(self, held_out_loss: float) -> bool:
        """Switch on if the held-out loss is low; returns whether it is on."""
        if held_out_loss <= self.threshold and not bool(self.enabled):
            self.enabled.fill_(1.0)
            logger.info(
                "sync loss %.3f is at or below %.3f: its weight is now %g",
                held_out_loss,
                self.threshold,
                self.final,
            )
        return bool(self.enabled)
