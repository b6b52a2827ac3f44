"""Lip-sync loss for generators: minus the log sync probability, by a frozen expert."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

import torch
from torch import Tensor

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.functional import Reduction, margin_loss, reduce, straight_through_clamp, sync_probability
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import load_expert
from unisync_loss.utils.frozen import FrozenModule
from unisync_loss.utils.tensors import describe

logger = logging.getLogger(__name__)
#: lower bound of probabilities in the loss, e^-5: the loss is at most 5 per window, its gradient at most 148
LEAST_PROBABILITY = 0.0067
_SLIGHT, _GROSS = 0.01, 0.05  # excess of the first video over its range that gives a warning, and an error


class SyncTerms(NamedTuple):
    """Result of a call with ``return_terms=True``.

    Attributes:
        loss: scalar, or (B,) for ``reduction="none"``.
        probability: (B, W) sync probability of each window, detached.
        weights: (B, W) weight of each window in the loss; 0 where masked.
    """

    loss: Tensor
    probability: Tensor
    weights: Tensor


class UniSyncLoss(FrozenModule[UniSyncExpert]):
    """Mean of ``-log p_sync`` over the windows of a generated face, by a frozen expert (eq. 1 with y = 1).

    The expert is frozen for good: ``.train()`` and ``.requires_grad_()`` of this module or of a parent, ``deepcopy``,
    ``.to()``, DDP and autocast leave it in eval mode and without gradients; ``.half()`` and ``.bfloat16()`` leave its
    weights in float32. It is not part of a parent's parameters or ``state_dict``, so a generator's checkpoint neither
    contains nor needs it. An expert that is also a submodule elsewhere is frozen again at the next call.

    Args:
        expert: frozen in place.

    Example:
        >>> loss = UniSyncLoss(UniSyncExpert(UniSyncConfig()))
        >>> video = torch.rand(2, 10, 3, 96, 96, requires_grad=True)
        >>> loss(video, torch.randn(2, 10 * 640) / 10).backward()
    """

    def __init__(self, expert: UniSyncExpert) -> None:
        super().__init__(expert)
        self._range_checked = False

    @property
    def expert(self) -> UniSyncExpert:
        """The frozen expert."""
        return self.network

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str]) -> UniSyncLoss:
        """Load a released name, a checkpoint folder, or ``owner/name[@revision]`` from the Hub.

        Raises:
            ValueError: see :func:`unisync_loss.models.pretrained.load_expert`.
        """
        return cls(load_expert(name))

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        stride: int = 1,
        reduction: Reduction = "mean",
        return_terms: bool = False,
    ) -> Tensor | SyncTerms:
        """Score a generated video.

        Args:
            video: (B, T, 3, H, W) RGB in [0, 1] (or what the expert's visual representation defines), with gradient,
                of any floating point dtype.
            audio: (B, S) waveform at 16 kHz of the same time, S = 640·T, or features; no gradient reaches it.
            mask: (B, T) booleans per frame (a window counts if all its frames do), or (B, W) per window.
            weights: (B, W) at least 0.
            stride: frames from one window to the next; 5 scores every frame once.
            reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one value per clip.
            return_terms: return :class:`SyncTerms` instead of the loss alone.

        Returns:
            The loss, in [0, 5] for ``"mean"``; or the terms.

        Raises:
            ValueError: for a wrong shape, dtype or length; at the first call, for values far from [0, 1].
        """
        self._check_batch(video, audio)
        self._check_range(video)
        self.freeze()
        # before the audio: axes in another order would otherwise be reported as a wrong number of frames
        frames = self.expert.prepare_visual(video)
        with torch.no_grad():
            audio_embedding = self.expert.encode_audio(audio, frames.shape[1], stride=stride)
        frame_mask = mask.bool() if isinstance(mask, Tensor) and mask.shape == video.shape[:2] else None
        visual_embedding = self.expert.encode_prepared(frames, stride=stride, mask=frame_mask)
        probability = sync_probability(audio_embedding, visual_embedding, surrogate=True)
        window_weights = self._window_weights(video, probability, mask, weights, stride)
        values = margin_loss(straight_through_clamp(probability, LEAST_PROBABILITY, 1.0), torch.ones_like(probability))
        loss = reduce(values, window_weights, reduction)
        return SyncTerms(loss, probability.detach(), window_weights) if return_terms else loss

    def _check_batch(self, video: Tensor, audio: Tensor) -> None:
        for name, value in (("video", video), ("audio", audio)):
            if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] == 0:
                raise ValueError(f"{name}: expected a batch (B, …), got {describe(value)}")
        if video.shape[0] != audio.shape[0]:
            sizes = f"{video.shape[0]} (video) and {audio.shape[0]} (audio)"
            raise ValueError(f"expected one audio clip per video, got batch sizes {sizes}")
        own = next(self.expert.parameters()).device
        if not video.device == audio.device == own:
            raise ValueError(
                f"expected video and audio on the loss's device {own}, got {video.device} and {audio.device}: "
                "move them, or the loss with .to()"
            )

    def _check_range(self, video: Tensor) -> None:
        """Check the values of the first video only: a check at every call would make a GPU wait."""
        bounds = self.expert.visual_input.value_range
        if self._range_checked or bounds is None or not video.is_floating_point():
            return
        least, most = bounds
        low, high = (bound.item() for bound in video.detach().aminmax())
        values = f"{self.expert.config.visual} in [{least:g}, {most:g}], got values in [{low:.3g}, {high:.3g}]"
        if not (least - _GROSS <= low and high <= most + _GROSS):  # also true of NaN
            raise ValueError(f"video: expected {values}")
        self._range_checked = True  # not before: a loop that skips failing batches must fail at the second, too
        if low < least - _SLIGHT or high > most + _SLIGHT:
            logger.warning("video: expected %s", values)

    def _window_weights(
        self, video: Tensor, probability: Tensor, mask: Tensor | None, weights: Tensor | None, stride: int
    ) -> Tensor:
        """Combine mask and weights, (B, W)."""
        result = torch.ones_like(probability)
        if weights is not None:
            if not isinstance(weights, Tensor) or weights.shape != probability.shape:
                raise ValueError(f"weights: expected (B, W) = {tuple(probability.shape)}, got {describe(weights)}")
            result = result * weights
        if mask is None:
            return result
        expected = f"(B, T) = {tuple(video.shape[:2])} or (B, W) = {tuple(probability.shape)}"
        if not isinstance(mask, Tensor):
            raise ValueError(f"mask: expected {expected}, got {describe(mask)}")
        if mask.shape == video.shape[:2]:
            mask = mask.bool().unfold(1, WINDOW_FRAMES, stride).all(-1)
        elif mask.shape != probability.shape:
            raise ValueError(f"mask: expected {expected}, got {describe(mask)}")
        return result * mask.bool()
