"""Wav2Lip (Rudrabha/Wav2Lip at 5c90fa9): replacement for its ``get_sync_loss`` and a resumable weight schedule.

``docs/clients.md`` lists the lines to change.
"""

from __future__ import annotations

import logging
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from unisync_loss import SyncTerms, UniSyncLoss
from unisync_loss.inputs.batch import check_type
from unisync_loss.utils.tensors import describe, real_number, whole_number

__all__ = ["SyncWeightSchedule", "Wav2LipSync"]

logger = logging.getLogger(__name__)


class Wav2LipSync(nn.Module):
    """Drop-in replacement for ``get_sync_loss(mel, g)``, computed by a UniSync expert.

    Args:
        loss: loss with a mel-rgb expert.

    Raises:
        ValueError: for a name in place of a loss, or if the expert is not mel-rgb.

    Example:
        >>> get_sync_loss = Wav2LipSync(UniSyncLoss.from_pretrained("mel-rgb"))  # doctest: +SKIP
        >>> get_sync_loss(mel, g).backward()  # doctest: +SKIP
    """

    def __init__(self, loss: UniSyncLoss) -> None:
        super().__init__()
        check_type("loss", loss, UniSyncLoss, "UniSyncLoss.from_pretrained")
        if loss.expert.config.name != "mel-rgb":
            raise ValueError(f"Wav2Lip trains on mel and RGB: expected a mel-rgb expert, got {loss.expert.config.name}")
        self.loss = loss

    def forward(self, mel: Tensor, g: Tensor) -> Tensor:
        """Score generated windows.

        Args:
            mel: (B, 1, 80, 16), as Wav2Lip's loader returns it.
            g: (B, 3, 5, H, W) generated frames, BGR in [0, 1], any H and W.

        Returns:
            Scalar, the mean of ``-log p``.

        Raises:
            ValueError: for other shapes.
        """
        return self.terms(mel, g).loss

    def terms(self, mel: Tensor, g: Tensor) -> SyncTerms:
        """Score generated windows individually, for logging and for weighting samples.

        Args:
            mel: see :meth:`forward`.
            g: see :meth:`forward`.

        Returns:
            The loss, and ``probability`` (B, 1) per sample.

        Raises:
            ValueError: for another shape.
        """
        shapes = [tuple(value.shape) for value in (mel, g) if isinstance(value, Tensor)]
        if [len(shape) for shape in shapes] != [4, 5] or (shapes[0][1], shapes[1][1]) != (1, 3):
            got = f"{describe(mel)} and {describe(g)}"
            raise ValueError(f"expected mel (B, 1, 80, 16) and g (B, 3, 5, H, W), got {got}")
        video = rearrange(g.flip(1), "b c t h w -> b t c h w")  # BGR → RGB
        terms = self.loss(video, mel[:, 0], return_terms=True)
        assert isinstance(terms, SyncTerms)
        return terms


class SyncWeightSchedule:
    """Weight of the sync term: 0 until the generator's held-out sync loss is low, then a linear ramp.

    Wav2Lip switches from 0 to 0.03 in one step, at a fixed value of its own SyncNet's loss, and loses it on resume.

    Args:
        weight: final weight, at least 0.
        threshold: held-out sync loss (mean ``-log p`` of this package's loss) below which the ramp starts. None starts
            it immediately, which works because this loss has a gradient for faces far out of sync, too.
        ramp_steps: calls of :meth:`step` from 0 to the final weight, at least 1.

    Raises:
        ValueError: for a negative weight or fewer than one ramp step.

    Example:
        >>> schedule = SyncWeightSchedule(0.03, ramp_steps=2)
        >>> [round(schedule.step(), 3) for _ in range(3)]
        [0.015, 0.03, 0.03]
    """

    # 0.03 as in hq_wav2lip_train.py; wav2lip_train.py has 0.01
    def __init__(self, weight: float = 0.03, *, threshold: float | None = None, ramp_steps: int = 1000) -> None:
        self.final, self.ramp_steps = real_number("weight", weight), whole_number("ramp_steps", ramp_steps)
        if self.final < 0 or self.ramp_steps < 1:
            raise ValueError(f"expected weight >= 0 and ramp_steps >= 1, got {weight} and {ramp_steps}")
        self.threshold = None if threshold is None else real_number("threshold", threshold)
        self.enabled = threshold is None
        self.steps = 0

    @property
    def weight(self) -> float:
        """Current weight."""
        return self.final * min(1.0, self.steps / self.ramp_steps)

    def step(self) -> float:
        """Count one training step and return its weight."""
        if self.enabled:
            self.steps = min(self.steps + 1, self.ramp_steps)
        return self.weight

    def update(self, held_out_loss: float) -> float:
        """Start the ramp once the held-out sync loss is below the threshold; it never stops. Returns the weight."""
        if not self.enabled and self.threshold is not None and held_out_loss < self.threshold:
            self.enabled = True
            logger.info(
                "sync loss %.3f is below %.3f: raising its weight to %g", held_out_loss, self.threshold, self.final
            )
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """State to save in a checkpoint."""
        return {"enabled": self.enabled, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore the state of a checkpoint.

        Args:
            state: of :meth:`state_dict`; None, for a checkpoint of a run without this schedule, starts it anew.
        """
        if state is None:
            logger.info("the checkpoint has no state of the sync weight's schedule, which therefore starts anew")
            state = SyncWeightSchedule(self.final, threshold=self.threshold, ramp_steps=self.ramp_steps).state_dict()
        self.enabled, self.steps = bool(state["enabled"]), int(state["steps"])
