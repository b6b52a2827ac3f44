"""Lip-sync loss for generators: minus the log sync probability, by a frozen expert."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor

from unisync_loss.functional import Reduction, margin_loss, reduce, straight_through_clamp, sync_probability
from unisync_loss.inputs.audio import check_audio
from unisync_loss.inputs.batch import check_batch
from unisync_loss.inputs.calls import CheckedCalls
from unisync_loss.inputs.values import check_video, check_weights, one_or_nan
from unisync_loss.inputs.weights import blank_padding, frame_mask, window_weights
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import load_expert
from unisync_loss.utils.frozen import FrozenModule

#: lower bound of probabilities in the loss, e^-5: the loss is at most 5 per window, its gradient at most 148
LEAST_PROBABILITY = 0.0067


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
        self._calls = CheckedCalls()

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
            weights: (B, W), or (B,) or (B, 1) per clip, at least 0.
            stride: frames from one window to the next; 5 scores every frame once.
            reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one value per clip.
            return_terms: return :class:`SyncTerms` instead of the loss alone.

        Returns:
            The loss, in [0, 5] for ``"mean"``; or the terms.

        Raises:
            ValueError: for a wrong shape, dtype or length; at the first three calls and every 1000th after the first,
                for NaN, infinity, negative weights, a video far from [0, 1], a waveform beyond 1.5 or a mel beyond
                4.1; what is doubtful is logged once. At the calls between, NaN or infinity in a clip makes its loss
                NaN.
        """
        check_batch(video, audio, next(self.expert.parameters()).device)
        self.freeze()
        by_frame = frame_mask(video, mask)
        video = blank_padding(video, by_frame)
        # before the audio: axes in another order would otherwise be reported as a wrong number of frames
        frames = self.expert.prepare_visual(video)
        with torch.no_grad():
            audio_embedding = self.expert.encode_audio(audio, frames.shape[1], stride=stride)
        window_weight = window_weights(audio_embedding.shape[:2], video, mask, weights, stride)
        self._check_values(video, audio, weights)
        visual_embedding = self.expert.encode_prepared(frames, stride=stride, mask=by_frame)
        probability = sync_probability(audio_embedding, visual_embedding, surrogate=True)
        probability = probability * one_or_nan(frames, audio)
        values = margin_loss(straight_through_clamp(probability, LEAST_PROBABILITY, 1.0), torch.ones_like(probability))
        loss = reduce(values, window_weight, reduction)
        return SyncTerms(loss, probability.detach(), window_weight) if return_terms else loss

    def _check_values(self, video: Tensor, audio: Tensor, weights: Tensor | None) -> None:
        """Check values at the calls that are due."""
        findings = []
        if self._calls.due:
            findings += check_video(video, self.expert.config.visual, self.expert.visual_input.value_range)
            findings += check_audio(audio, self.expert.config.audio)
            if weights is not None:
                check_weights(weights)
        self._calls.count(findings)
