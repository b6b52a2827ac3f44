"""What `teacher.py` measures: our experts on RGB, and Wav2Lip's SyncNet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file
from syncnet_color import SyncNetColor, wav2lip_sync_loss
from torch import Tensor
from tower_embeddings import digest

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss, load_expert
from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.functional import sync_probability
from unisync_loss.representations import audio_input

MEL_STEPS = 16  # of a window


class Teacher(Protocol):
    """A frozen expert that scores frames and gives a generator its gradient.

    Attributes:
        threshold: probability above which a window is called in sync, chosen on validation data.
        key: identifies its weights and settings.
    """

    threshold: float
    key: str

    def encode_audio(self, waveform: Tensor, frames: int) -> Tensor:
        """Embed (1, 640 T) samples of T frames: (1, T - 4, …), one entry per window."""
        ...

    def probability(self, video: Tensor, audio: Tensor) -> Tensor:
        """Score frames (B, T, 3, 96, 96) in [0, 1] with windows of :meth:`encode_audio` (B, T - 4, …): (B, T - 4)."""
        ...

    def loss(self, video: Tensor, audio: Tensor) -> Tensor:
        """Loss of a generator for the same arguments, a scalar."""
        ...


class ExpertTeacher:
    """An expert of this library, with :class:`unisync_loss.UniSyncLoss`."""

    def __init__(self, expert: UniSyncExpert) -> None:
        if expert.config.visual != "rgb":
            raise ValueError(f"expected an expert on rgb, got one on {expert.config.visual}")
        self._loss = UniSyncLoss(expert)
        self.threshold = expert.config.threshold
        self.key = digest(expert.state_dict(), asdict(expert.config))

    @torch.no_grad()
    def encode_audio(self, waveform: Tensor, frames: int) -> Tensor:
        """See :class:`Teacher`."""
        return self._loss.encode_audio(waveform, frames)

    def probability(self, video: Tensor, audio: Tensor) -> Tensor:
        """See :class:`Teacher`."""
        # the surrogate's gradient, because a probability of 0 has none and would pass for robust
        return sync_probability(audio, self._loss.expert.encode_visual(video), surrogate=True)

    def loss(self, video: Tensor, audio: Tensor) -> Tensor:
        """See :class:`Teacher`."""
        value = self._loss(video, audio_embedding=audio)
        assert isinstance(value, Tensor)
        return value


class SyncNetTeacher:
    """SyncNet of Wav2Lip on RGB frames; the mel of the windows stands for the audio embedding."""

    def __init__(self, net: SyncNetColor, threshold: float) -> None:
        self._net = net.eval().requires_grad_(False)
        self._mel = audio_input(UniSyncConfig())
        self.threshold = threshold
        self.key = digest(net.state_dict(), {"threshold": threshold})

    @torch.no_grad()
    def encode_audio(self, waveform: Tensor, frames: int) -> Tensor:
        """See :class:`Teacher`; (1, W, 80, 16)."""
        mel = self._mel(waveform)
        starts = [first * MEL_STEPS // WINDOW_FRAMES for first in range(frames - WINDOW_FRAMES + 1)]
        return rearrange([mel[:, start : start + MEL_STEPS] for start in starts], "w b l f -> b w f l")

    def probability(self, video: Tensor, audio: Tensor) -> Tensor:
        """See :class:`Teacher`."""
        frames, mel = _windows(video, audio)
        face = rearrange(frames[..., frames.shape[-2] // 2 :, :], "n c t h w -> n (t c) h w")
        sound, visual = self._net(mel, face)
        return rearrange((sound * visual).sum(1), "(b w) -> b w", b=len(video))

    def loss(self, video: Tensor, audio: Tensor) -> Tensor:
        """See :class:`Teacher`."""
        frames, mel = _windows(video, audio)
        return wav2lip_sync_loss(self._net, mel, frames)


def _windows(video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (B W, 3, 5, H, W) and mel (B W, 1, 80, 16) of every window."""
    frames = rearrange(video.unfold(1, WINDOW_FRAMES, 1), "b w c h x t -> (b w) c t h x")
    return frames, rearrange(audio, "b w f l -> (b w) 1 f l")


def load_teacher(name: str) -> Teacher:
    """Load what is to be measured.

    Args:
        name: released name or folder of an expert on RGB, or a ``.safetensors`` file with the weights of
            :class:`syncnet_color.SyncNetColor` and its ``threshold`` in the metadata.

    Raises:
        ValueError: for an expert on another representation, or what :func:`unisync_loss.load_expert` refuses.
        KeyError: for a SyncNet without threshold.
    """
    if Path(name).suffix != ".safetensors":
        return ExpertTeacher(load_expert(name))
    with safe_open(name, "pt") as file:
        threshold = float((file.metadata() or {})["threshold"])
    net = SyncNetColor()
    net.load_state_dict(load_file(name))
    return SyncNetTeacher(net, threshold)
