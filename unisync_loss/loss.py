"""The loss of a generator: how improbable it is that its face belongs to the voice."""

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
#: Probabilities below e^-5 count as that in the loss: at most 5 a window, gradient at most 148 on the probability.
LEAST_PROBABILITY = 0.0067
_SLIGHT, _GROSS = 0.01, 0.05  # how far the first video may leave [0, 1] before a warning and before an error


class SyncTerms(NamedTuple):
    """What ``return_terms=True`` gives.

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
    weights in float32. It is no part of a parent's parameters or ``state_dict``: checkpoints of a generator neither
    swell by it nor depend on it. An expert that is also a submodule elsewhere is frozen again at the next call.

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
            reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one value a clip.
            return_terms: return :class:`SyncTerms` instead of the loss alone.

        Returns:
            The loss, in [0, 5] for ``"mean"``; or the terms.

        Raises:
            ValueError: for a wrong shape, dtype or length; at the first call, for values far from [0, 1].
        """
        self._check_batch(video, audio)
        self._check_range(video)
        self.freeze()
        with torch.no_grad():
            # the representation's own check comes first: axes in another order would read as a wrong number of frames
            frames = self.expert.visual_input(video).shape[1]
            heard = self.expert.encode_audio(audio, frames, stride=stride)
        shown = mask.bool() if isinstance(mask, Tensor) and mask.shape == video.shape[:2] else None
        seen = self.expert.encode_visual(video, stride=stride, mask=shown)
        probability = sync_probability(heard, seen, surrogate=True)
        window_weights = self._window_weights(video, probability, mask, weights, stride)
        values = margin_loss(straight_through_clamp(probability, LEAST_PROBABILITY, 1.0), torch.ones_like(probability))
        loss = reduce(values, window_weights, reduction)
        return SyncTerms(loss, probability.detach(), window_weights) if return_terms else loss

    def _check_batch(self, video: Tensor, audio: Tensor) -> None:
        for name, value in (("video", video), ("audio", audio)):
            if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] == 0:
                raise ValueError(f"{name}: expected a batch (B, …), got {describe(value)}")
        if video.shape[0] != audio.shape[0]:
            raise ValueError(f"expected one audio a video, got {video.shape[0]} videos and {audio.shape[0]} audios")
        own = next(self.expert.parameters()).device
        if not video.device == audio.device == own:
            raise ValueError(
                f"expected video and audio on the loss's device {own}, got {video.device} and {audio.device}: "
                "move them, or the loss with .to()"
            )

    def _check_range(self, video: Tensor) -> None:
        """Look at the values once: a check at every call would make a GPU wait."""
        expected = {"rgb": "RGB", "parsing": "probabilities"}.get(self.expert.config.visual)
        if self._range_checked or expected is None or not video.is_floating_point():
            return
        low, high = (bound.item() for bound in video.detach().aminmax())
        if not (-_GROSS <= low and high <= 1 + _GROSS):  # also true of NaN
            raise ValueError(f"video: expected {expected} in [0, 1], got values in [{low:.3g}, {high:.3g}]")
        self._range_checked = True  # only now: a loop that skips failing batches must not be let through at the second
        if low < -_SLIGHT or high > 1 + _SLIGHT:
            logger.warning("video: expected %s in [0, 1], got values in [%.3g, %.3g]", expected, low, high)

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
