"""HuBERT features: 50 steps a second, two a video frame, given or computed from the waveform."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from unisync_loss.representations.base import AudioInput
from unisync_loss.representations.hubert_encoder import MARGIN, HubertEncoder, fit_steps, looks_like


class HubertInput(AudioInput):
    """Waveform (B, S), or features (B, L, F) → (B, L, F).

    A waveform is encoded by the model, revision and layer of the config, in float32; the model is loaded at the first
    waveform and shared by all experts of the process. Give whole clips, not windows: HuBERT hears the context. Features
    of clips that are read again and again are computed once by
    :func:`unisync_loss.representations.hubert_encoder.cached_features`.
    """

    margin = MARGIN // 2

    @property
    def expected(self) -> str:  # type: ignore[override]
        """The feature shape, with the width of this expert's model."""
        return f"(B, L, {self.config.audio_features}) of 50 steps a second, of {self.config.hubert_model}"

    def forward(self, audio: Tensor) -> Tensor:
        """Check and encode; see the class for shapes."""
        if not isinstance(audio, Tensor) or not audio.is_floating_point() or audio.ndim not in (2, 3):
            raise self.refuse(audio)
        if audio.ndim == 3:
            self._check_width(audio.shape[2], audio)
            return audio
        config = self.config
        encoder = _encoder(config.hubert_model, config.hubert_revision, config.hubert_layer, audio.device)
        self._check_width(encoder.width, audio)
        if audio.requires_grad:
            return encoder(audio).to(audio.dtype)
        with torch.no_grad():
            return encoder(audio).to(audio.dtype)

    def fit(self, features: Tensor, steps: int) -> Tensor:
        """Repeat the last step where one is missing: HuBERT gives 2·T - 1 steps for exactly T frames of audio."""
        return fit_steps(features, steps)

    def _check_width(self, width: int, audio: Tensor) -> None:
        if width != self.config.audio_features:
            raise ValueError(f"{self.refuse(audio)}: features of width {width}{looks_like(width)}")


@functools.lru_cache(maxsize=2)  # a failure is not remembered
def _encoder(model: str, revision: str, layer: int, device: torch.device) -> HubertEncoder:
    return HubertEncoder.from_pretrained(model, revision=revision, layer=layer, device=device)
