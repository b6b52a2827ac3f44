"""Features of a pretrained encoder as an expert's audio input: 50 steps per second, two per video frame."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.representations.audio_encoder import HOP, AudioEncoder, fit_steps, looks_like
from unisync_loss.representations.base import AudioInput
from unisync_loss.representations.hubert_encoder import HubertEncoder
from unisync_loss.representations.whisper_encoder import WhisperEncoder


class EncoderInput(AudioInput):
    """Waveform (B, S) or features (B, L, F) → (B, L, F).

    A waveform is encoded by the model, revision and layer of the config, in float32; the model is loaded at the first
    waveform and moves with the expert from then on. Pass whole clips, not windows, because the encoder uses the
    context; a gradient reaches the waveform. Pass features where they are at hand, computed from whole clips by the
    same model and layer: those of another model do not fit, also where their width is the same. For clips that are read
    again and again, :func:`unisync_loss.representations.audio_encoder.cached_features` computes the features once.

    Attributes:
        encoder_type: class of the encoder.
    """

    encoder_type: ClassVar[type[AudioEncoder[Any]]]

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__(config)
        self.encoder: AudioEncoder[Any] | None = None

    @property
    def context(self) -> int:
        """Samples on either side that change the features of a segment."""
        return HOP * self.encoder_type.context

    @property
    def expected(self) -> str:
        """The feature shape, with the width of this expert's model."""
        return f"(B, L, {self.config.audio_features}) of 50 steps a second, of {self.config.audio_model}"

    def load_encoder(self, device: torch.device) -> AudioEncoder[Any]:
        """Load the encoder that the config names; see :meth:`AudioEncoder.from_pretrained` for the errors."""
        config = self.config
        with torch.inference_mode(False):  # weights made in inference mode never take part in a backward pass
            return self.encoder_type.from_pretrained(
                config.audio_model, revision=config.audio_revision, layer=config.audio_layer, device=device
            )

    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a waveform (B, S); a gradient reaches it if it asks for one."""
        if self.encoder is None:
            self.encoder = self.load_encoder(waveform.device)
        self._check_width(self.encoder.width, waveform)
        with torch.set_grad_enabled(torch.is_grad_enabled() and waveform.requires_grad):
            features: Tensor = self.encoder(waveform)
            return features.to(waveform.dtype)

    def convert(self, features: Tensor) -> Tensor:
        """Check the width of features (B, L, F)."""
        self._check_width(features.shape[2], features)
        return features

    def fit(self, features: Tensor, steps: int) -> Tensor:
        """Repeat the last step where one is missing: HuBERT gives 2·T - 1 steps for exactly T frames of audio."""
        return fit_steps(features, steps)

    def refuse(self, audio: Tensor, hint: str = "") -> ValueError:
        """Build the error for an input that is not as expected, and name what four axes look like."""
        if isinstance(audio, Tensor) and audio.ndim == 4:
            states, width = audio.shape[2:]
            musetalk = (states, width) == (5, 384)
            source = "MuseTalk's features, which are" if musetalk else "features from"
            hint = (
                f": looks like {source} all {states} hidden states of an encoder of width {width}{looks_like(width)}; "
                "pass one of them, features[:, :, layer], to an expert trained on that layer of that model"
            )
        return super().refuse(audio, hint)

    def _check_width(self, width: int, audio: Tensor) -> None:
        if width != self.config.audio_features:
            raise self.refuse(audio, f": features of width {width}{looks_like(width)}")


class HubertInput(EncoderInput):
    """Features of HuBERT; see :class:`EncoderInput`."""

    encoder_type = HubertEncoder


class WhisperInput(EncoderInput):
    """Features of Whisper's encoder; see :class:`EncoderInput`."""

    encoder_type = WhisperEncoder
