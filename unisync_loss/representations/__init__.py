"""Audio and visual representations that experts take: one module each, two base classes that define the shapes."""

from __future__ import annotations

from unisync_loss.config import UniSyncConfig
from unisync_loss.representations.base import AudioInput, VisualInput
from unisync_loss.representations.coefficients import MorphableInput
from unisync_loss.representations.encoder_input import HubertInput, WhisperInput
from unisync_loss.representations.hubert_encoder import HubertEncoder
from unisync_loss.representations.landmarks import LandmarksInput, normalise_landmarks, points_of_idexp
from unisync_loss.representations.mel import MelInput, mel_spectrogram
from unisync_loss.representations.parsing import ParsingInput, mouth_groups
from unisync_loss.representations.rgb import RGBInput
from unisync_loss.representations.whisper_encoder import WhisperEncoder

__all__ = [
    "AudioInput",
    "HubertEncoder",
    "VisualInput",
    "WhisperEncoder",
    "audio_input",
    "mel_spectrogram",
    "mouth_groups",
    "normalise_landmarks",
    "points_of_idexp",
    "visual_input",
]

_AUDIO: dict[str, type[AudioInput]] = {"mel": MelInput, "hubert": HubertInput, "whisper": WhisperInput}
_VISUAL: dict[str, type[VisualInput]] = {
    "rgb": RGBInput,
    "parsing": ParsingInput,
    "landmarks": LandmarksInput,
    "3dmm": MorphableInput,
}


def audio_input(config: UniSyncConfig) -> AudioInput:
    """Build the audio representation that a config names."""
    return _AUDIO[config.audio](config)


def visual_input(config: UniSyncConfig) -> VisualInput:
    """Build the visual representation that a config names."""
    return _VISUAL[config.visual](config)
