"""Lip-sync loss for generators: minus the log sync probability, by a frozen expert."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.functional import Reduction, margin_loss, reduce, straight_through_clamp, sync_probability
from unisync_loss.inputs.audio import check_audio
from unisync_loss.inputs.batch import check_batch, check_tensors, check_type
from unisync_loss.inputs.calls import CheckedCalls
from unisync_loss.inputs.draws import draw_gradient_frames, draw_windows
from unisync_loss.inputs.face import check_face
from unisync_loss.inputs.frames import GeneratorFrames, check_boxes
from unisync_loss.inputs.values import check_video, check_weights, one_or_nan
from unisync_loss.inputs.weights import blank_padding, frame_mask, window_weights
from unisync_loss.models.expert import UniSyncExpert, count_windows
from unisync_loss.models.layers import GradientFrames, fold_batch_norms
from unisync_loss.models.pretrained import load_expert
from unisync_loss.utils.frozen import FrozenModule
from unisync_loss.utils.tensors import describe, flag, whole_number

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

    The loss holds a copy of the expert with its batch norms folded, frozen for good: ``.train()`` and
    ``.requires_grad_()`` of this module or of a parent, ``deepcopy``, ``.to()``, DDP and autocast leave it in eval mode
    and without gradients; ``.half()`` and ``.bfloat16()`` leave its weights in float32, and under autocast
    its towers run in bfloat16. It is not part of a parent's parameters or ``state_dict``, so a generator's checkpoint
    neither contains nor needs it.

    Values are checked at the first three calls and every 1000th after the first, because reading one makes the program
    wait for a GPU. At the calls between, NaN or infinity in a clip makes its loss NaN. ``torch.compile(loss,
    fullgraph=True)`` works on features and on the waveform of a mel; inside it, no call checks values.

    Args:
        expert: copied, not changed; later changes of it do not reach the loss. :meth:`from_pretrained` takes a name.
        value_range: of the frames for an expert on RGB, such as (-1, 1); values beyond it are clamped, and the gradient
            passes. None: [0, 1], not clamped.
        channel_order: of the frames for an expert on RGB, ``"rgb"`` or ``"bgr"``.

    Raises:
        ValueError: for a name in place of an expert, or options that do not fit it.

    Example:
        >>> loss = UniSyncLoss(UniSyncExpert(UniSyncConfig()))
        >>> video = torch.rand(2, 10, 3, 96, 96, requires_grad=True)
        >>> loss(video, torch.randn(2, 10 * 640) / 10).backward()
    """

    def __init__(
        self,
        expert: UniSyncExpert,
        *,
        value_range: tuple[float, float] | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        check_type("expert", expert, UniSyncExpert, "UniSyncLoss.from_pretrained")
        super().__init__(fold_batch_norms(expert))
        self._frames = GeneratorFrames(expert.config.visual, value_range, channel_order)
        self._calls, self._audio_calls = CheckedCalls(), CheckedCalls()

    @property
    def expert(self) -> UniSyncExpert:
        """The frozen copy; it is not saved, because its batch norms are folded."""
        return self.network

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        value_range: tuple[float, float] | None = None,
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> UniSyncLoss:
        """Load a released name, a checkpoint folder, or ``owner/name[@revision]`` from the Hub.

        Args:
            name: of the expert.
            device: to put it on; None leaves it where modules are created.
            value_range: see the class.
            channel_order: see the class.

        Raises:
            ValueError: see :func:`unisync_loss.models.pretrained.load_expert`, and the class.
        """
        return cls(load_expert(name, device=device), value_range=value_range, channel_order=channel_order)

    def forward(
        self,
        video: Tensor,
        audio: Tensor | None = None,
        *,
        audio_embedding: Tensor | None = None,
        frames: int | None = None,
        boxes: Tensor | None = None,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        video_real: Tensor | None = None,
        stride: int = 1,
        windows: int | None = None,
        grad_frames: int | range | None = None,
        reduction: Reduction = "mean",
        return_terms: bool = False,
    ) -> Tensor | SyncTerms:
        """Score a generated video.

        Args:
            video: (B, T, 3, H, W) RGB in [0, 1], or what the expert's representation takes, of any floating dtype.
            audio: (B, S) waveform at 16 kHz of the same time, S = 640·T, or features; no gradient reaches it.
            audio_embedding: of :meth:`encode_audio`, in place of ``audio``.
            frames: T, where the video is ((B T), 3, H, W), the frames of a clip one after the other.
            boxes: (B, 4) or (B, T, 4) left, top, right, bottom of the face in pixels, where the picture is larger.
            mask: (B, T) booleans per frame (a window counts if all its frames do), or (B, W) per window.
            weights: (B, W), or (B,) or (B, 1) per clip, at least 0.
            video_real: the real frames of the same time, shaped like ``video``; no gradient reaches them. The loss of a
                window is then ``max(0, log p_real - log p)``. They cost another forward pass of the visual tower.
            stride: frames from one window to the next; 5 scores every frame once.
            windows: number of windows to score, drawn anew at every call, alike for all clips; None scores all.
            grad_frames: number of successive frames that the gradient reaches, drawn as windows are, or their places,
                such as ``range(4, 8)``; the others are scored with them, without a backward pass of their own.
            reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one value per clip.
            return_terms: return :class:`SyncTerms` instead of the loss alone.

        Returns:
            The loss, in [0, 5] for ``"mean"``; or the terms.

        Raises:
            ValueError: for a wrong shape, dtype or length; at a checked call, for the values that docs/loss.md lists.
        """
        video, stride = self._frames.unflatten(video, frames), whole_number("stride", stride)
        audio_windows = self._audio_windows(video, audio, audio_embedding, stride)
        check_tensors(video.device, mask=mask, weights=weights, video_real=video_real)
        by_frame = frame_mask(video, mask)
        video = blank_padding(video, by_frame)
        factors = window_weights(audio_windows.shape[:2], video, mask, weights, stride)
        self._check_values(video, weights, boxes, by_frame)
        chosen = draw_windows(audio_windows.shape[1], windows, video.device)
        gradient = draw_gradient_frames(video.shape[1], grad_frames, video.device)
        options = audio_windows, by_frame, boxes, stride, chosen, gradient
        probability = self._probability(video, *options)
        values = _loss_of(probability)
        if video_real is not None:
            real = blank_padding(_like(video, self._frames.unflatten(video_real, frames)), by_frame)
            values = F.relu(values - _loss_of(self._probability(real, *options)))
        factors = factors if chosen is None else factors[:, chosen]
        loss = reduce(values, factors, reduction)
        return SyncTerms(loss, probability.detach(), factors) if flag("return_terms", return_terms) else loss

    @torch.no_grad()
    def score(
        self,
        video: Tensor,
        audio: Tensor | None = None,
        *,
        audio_embedding: Tensor | None = None,
        frames: int | None = None,
        boxes: Tensor | None = None,
        mask: Tensor | None = None,
        per_window: bool = False,
        calibrated: bool = False,
    ) -> Tensor:
        """Sync probability without gradient: a reward for fine-tuning by preference or by forward passes alone.

        Args:
            video: see :meth:`forward`.
            audio: see :meth:`forward`.
            audio_embedding: see :meth:`forward`.
            frames: see :meth:`forward`.
            boxes: see :meth:`forward`.
            mask: see :meth:`forward`.
            per_window: return each window instead of the mean of the clip.
            calibrated: return calibrated probabilities of the windows, or their mean, see
                :meth:`unisync_loss.UniSyncExpert.calibrate`, instead of the cosine of eq. 2.

        Returns:
            (B,) mean over the windows that the mask leaves, or (B, W), in [0, 1], higher is better.

        Raises:
            ValueError: see :meth:`forward`; for ``calibrated`` with an expert that is not.

        Example:
            >>> loss = UniSyncLoss(UniSyncExpert(UniSyncConfig()))
            >>> loss.score(torch.rand(2, 10, 3, 96, 96), torch.randn(2, 10 * 640) / 10).shape
            torch.Size([2])
        """
        terms = self(
            video, audio, audio_embedding=audio_embedding, frames=frames, boxes=boxes, mask=mask, return_terms=True
        )
        values = self.expert.calibrate(terms.probability) if flag("calibrated", calibrated) else terms.probability
        return values if flag("per_window", per_window) else reduce(values, terms.weights, "none")

    @torch.no_grad()
    def encode_audio(self, audio: Tensor, frames: int, *, stride: int = 1) -> Tensor:
        """Embed audio once, where several calls score videos with the same audio.

        Args:
            audio: (B, S) waveform at 16 kHz, S = 640·T, or features.
            frames: T.
            stride: frames from one window to the next; 1 for an embedding that is passed to :meth:`forward`.

        Returns:
            (B, W, D), W = (T - 5) // stride + 1; NaN for a clip with NaN or infinity.

        Raises:
            ValueError: for a wrong shape, dtype or length; at a checked call, for NaN, infinity, a waveform beyond 1.5
                or a mel beyond 4.1. What is doubtful, such as silence, is logged once.
        """
        check_batch(self._device, audio=audio)
        self.freeze()
        embedding = self.expert.encode_audio(audio, frames, stride=stride)
        self._audio_calls.count(check_audio(audio, self.expert.config.audio) if self._audio_calls.due else ())
        return embedding * one_or_nan(audio)[:, :, None]

    @property
    def _device(self) -> torch.device:
        return next(self.expert.parameters()).device

    def _audio_windows(
        self, video: Tensor, audio: Tensor | None, audio_embedding: Tensor | None, stride: int
    ) -> Tensor:
        """Check the batch and embed its audio, (B, W, D)."""
        if (audio is None) == (audio_embedding is None):
            raise ValueError("expected either audio or audio_embedding")
        if audio_embedding is None:
            assert audio is not None
            check_batch(self._device, video=video, audio=audio)
            # before the audio: axes in another order would otherwise be reported as a wrong number of frames
            self.expert.visual_input.check(video)
            return self.encode_audio(audio, video.shape[1], stride=stride)
        check_batch(self._device, video=video, audio_embedding=audio_embedding)
        self.expert.visual_input.check(video)
        count_windows(video.shape[1], stride)
        shape = (len(video), count_windows(video.shape[1]), self.expert.config.embedding)
        if audio_embedding.shape != shape or not audio_embedding.is_floating_point():
            raise ValueError(
                f"audio_embedding: expected (B, T - 4, D) = {shape} of encode_audio, got {describe(audio_embedding)}"
            )
        return audio_embedding.detach()[:, ::stride]

    def _check_values(self, video: Tensor, weights: Tensor | None, boxes: Tensor | None, mask: Tensor | None) -> None:
        """Check values at the calls that are due."""
        findings = []
        if self._calls.due:
            value_range = self._frames.value_range
            bounds = value_range or self.expert.visual_input.value_range
            findings = check_video(video, self.expert.config.visual, bounds, clamped=value_range is not None)
            if weights is not None:
                check_weights(weights)
            if boxes is not None:
                self._frames.check_shape(video, boxes)
                check_boxes(boxes, *video.shape[-2:])
            findings += check_face(self.expert, self._frames, video, boxes, mask)
        self._calls.count(findings)

    def _probability(
        self,
        video: Tensor,
        audio_windows: Tensor,
        mask: Tensor | None,
        boxes: Tensor | None,
        stride: int,
        chosen: Tensor | None,
        gradient: GradientFrames | None,
    ) -> Tensor:
        """Sync probability (B, W) of all windows or of those chosen, with gradient."""
        faces = video if boxes is None else self._frames.crop(video, boxes)
        prepared = self.expert.prepare_visual(self._frames.convert(faces))
        if chosen is None:
            visual = self.expert.encode_prepared(prepared, stride=stride, mask=mask, gradient=gradient)
        else:
            audio_windows = audio_windows[:, chosen]
            visual = self.expert.encode_chosen(prepared, chosen, stride=stride, mask=mask, gradient=gradient)
        return sync_probability(audio_windows, visual, surrogate=True) * one_or_nan(video)


def _loss_of(probability: Tensor) -> Tensor:
    """Loss of each window (B, W), in [0, 5]."""
    return margin_loss(straight_through_clamp(probability, LEAST_PROBABILITY, 1.0), torch.ones_like(probability))


def _like(video: Tensor, real: Tensor) -> Tensor:
    """The real frames, without gradient, if they are as many and as large as those generated."""
    if not isinstance(real, Tensor) or real.shape != video.shape:
        raise ValueError(f"video_real: expected {tuple(video.shape)}, like video, got {describe(real)}")
    return real.detach()
