"""HuBERT features as an expert's audio input: 50 steps per second, two per video frame."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.representations.base import AudioInput
from unisync_loss.representations.hubert_encoder import CONTEXT, HubertEncoder, fit_steps, looks_like


class HubertInput(AudioInput):
    """Waveform (B, S) or features (B, L, F) → (B, L, F).

    A waveform is encoded by the model, revision and layer of the config, in float32; the model is loaded at the first
    waveform and moves with the expert from then on. Pass whole clips, not windows, because HuBERT uses the context. For
    clips that are read again and again, :func:`unisync_loss.representations.hubert_encoder.cached_features` computes
    the features once.
    """

    context_frames = CONTEXT // 2

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__(config)
        self.encoder: HubertEncoder | None = None

    @property
    def expected(self) -> str:
        """The feature shape, with the width of this expert's model."""
        return f"(B, L, {self.config.audio_features}) of 50 steps a second, of {self.config.audio_model}"

    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S); a gradient reaches it if it asks for one."""
        encoder = self._loaded_encoder(waveform.device)
        self._check_width(encoder.width, waveform)
        with torch.set_grad_enabled(torch.is_grad_enabled() and waveform.requires_grad):
            return encoder(waveform).to(waveform.dtype)

    def convert(self, features: Tensor) -> Tensor:
        """Check the width of features (B, L, F)."""
        self._check_width(features.shape[2], features)
        return features

    def fit(self, features: Tensor, steps: int) -> Tensor:
        """Repeat the last step where one is missing: HuBERT gives 2·T - 1 steps for exactly T frames of audio."""
        return fit_steps(features, steps)

    def _loaded_encoder(self, device: torch.device) -> HubertEncoder:
        if self.encoder is None:
            config = self.config
            with torch.inference_mode(False):  # weights made in inference mode never take part in a backward pass
                self.encoder = HubertEncoder.from_pretrained(
                    config.audio_model, revision=config.audio_revision, layer=config.audio_layer, device=device
                )
        return self.encoder

    def _check_width(self, width: int, audio: Tensor) -> None:
        if width != self.config.audio_features:
            raise self.refuse(audio, f": features of width {width}{looks_like(width)}")
