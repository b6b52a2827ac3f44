"""HuBERT features: 50 steps a second, computed by the user or cached (two steps a video frame)."""

from __future__ import annotations

from torch import Tensor

from unisync_loss.representations.base import AudioInput


class HubertInput(AudioInput):
    """HuBERT features (B, L, F) → the same, checked."""

    @property
    def expected(self) -> str:  # type: ignore[override]
        """The feature shape, with the width of this expert's model."""
        return f"(B, L, {self.config.audio_features}) of 50 steps a second"

    def forward(self, audio: Tensor) -> Tensor:
        """Check; see the class for shapes."""
        if not isinstance(audio, Tensor) or not audio.is_floating_point():
            raise self.refuse(audio)
        if audio.ndim == 2:
            raise ValueError(
                f"audio: this expert takes HuBERT features {self.expected} of {self.config.hubert_model}, "
                "not a waveform; compute them first"
            )
        if audio.ndim != 3 or audio.shape[2] != self.config.audio_features:
            raise self.refuse(audio)
        return audio
