"""Mel spectrogram with Wav2Lip's numbers, differentiable, in float32.

Pre-emphasis 0.97, STFT of 800 samples every 200, magnitude, 80 Slaney mel bands of 55 to 7600 Hz, decibels,
-100 … 0 dB mapped to -4 … 4. One step is 12.5 ms.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import AUDIO_FEATURES, SAMPLE_RATE, UniSyncConfig
from unisync_loss.representations.base import AudioInput
from unisync_loss.utils.frozen import ConstantTables
from unisync_loss.utils.tensors import check_choice, describe

# hparams.py of Wav2Lip
N_FFT = 800
HOP = 200
PREEMPHASIS = 0.97
F_MIN, F_MAX = 55.0, 7600.0
FLOOR = 1e-5  # -100 dB
REFERENCE_DB = 20.0
#: Slaney's mel scale (Auditory Toolbox, 1998): linear below 1000 Hz, where mel 15 lies, logarithmic above
_HZ_PER_MEL, _BREAK_HZ, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27

Padding = Literal["reflect", "constant"]


def mel_spectrogram(waveform: Tensor, padding: Padding = "reflect") -> Tensor:
    """Wav2Lip's mel spectrogram.

    Args:
        waveform: (B, S) at 16 kHz in [-1, 1], S above 400.
        padding: at both ends, ``"reflect"`` (librosa before 0.9: Wav2Lip's released weights) or ``"constant"``.

    Returns:
        (B, 80, L) with L = 1 + S // 200, in [-4, 4]; silence is -4.

    Raises:
        ValueError: for another shape, an integer dtype, a waveform too short, or another padding.
    """
    if not isinstance(waveform, Tensor):
        raise ValueError(f"waveform: expected a tensor, got {describe(waveform)}")
    mel: Tensor = MelSpectrogram(padding).to(waveform.device)(waveform)
    return mel


class MelSpectrogram(ConstantTables):
    """:func:`mel_spectrogram` as a module, which keeps window and filter bank on its device.

    Args:
        padding: as there.

    Shape:
        (B, S) → (B, 80, 1 + S // 200).
    """

    window: Tensor
    filters: Tensor

    def __init__(self, padding: Padding = "reflect") -> None:
        check_choice("padding", padding, "reflect", "constant")
        filters = slaney_filters(AUDIO_FEATURES["mel"], N_FFT, F_MIN, F_MAX)
        super().__init__(window=torch.hann_window(N_FFT, dtype=torch.float32), filters=filters)
        self.padding = padding

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the spectrogram; see :func:`mel_spectrogram`."""
        if waveform.ndim != 2 or not waveform.is_floating_point() or waveform.shape[1] <= N_FFT // 2:
            raise ValueError(
                f"waveform: expected (B, S) floating point with S > {N_FFT // 2}, got {describe(waveform)}"
            )
        with torch.autocast(device_type=waveform.device.type, enabled=False):
            waveform = waveform if waveform.dtype == torch.float64 else waveform.float()
            emphasised = torch.cat([waveform[:, :1], waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]], dim=1)
            padded = F.pad(emphasised, (N_FFT // 2, N_FFT // 2), mode=self.padding)
            window = self.window.to(padded.dtype)
            spectrum = torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True).abs()
            mel = self.filters.to(spectrum.dtype) @ spectrum
            decibels = 20 * mel.clamp(min=FLOOR).log10() - REFERENCE_DB
            return (8 * (decibels + 100) / 100 - 4).clamp(-4, 4)


def slaney_filters(bands: int, n_fft: int, lowest: float, highest: float) -> Tensor:
    """Triangular mel filters of equal area, as ``librosa.filters.mel`` makes them by default.

    Args:
        bands: number of filters.
        n_fft: length of the Fourier transform at 16 kHz.
        lowest: lower edge of the first filter in Hz.
        highest: upper edge of the last filter in Hz.

    Returns:
        (bands, 1 + n_fft // 2) float32.
    """
    mels = torch.linspace(_mel_of_hz(lowest), _mel_of_hz(highest), bands + 2, dtype=torch.float32)
    edge = _mel_of_hz(_BREAK_HZ)
    hz = torch.where(mels < edge, _HZ_PER_MEL * mels, _BREAK_HZ * torch.exp(_LOG_STEP * (mels - edge)))
    low, middle, high = hz[:-2, None], hz[1:-1, None], hz[2:, None]
    bins = torch.linspace(0, SAMPLE_RATE // 2, n_fft // 2 + 1, dtype=torch.float32)
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0) * (2 / (high - low))


def _mel_of_hz(hz: float) -> float:
    return hz / _HZ_PER_MEL if hz <= _BREAK_HZ else _BREAK_HZ / _HZ_PER_MEL + math.log(hz / _BREAK_HZ) / _LOG_STEP


class MelInput(AudioInput):
    """Waveform (B, S) or mel (B, 80, L) or (B, 1, 80, L) → (B, L, 80)."""

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__(config)
        self.spectrogram = MelSpectrogram(config.mel_padding)

    @property
    def context(self) -> int:
        """One second, 80 steps: the filters reach 25 ms, and windows that begin in a segment end 0.16 s after it."""
        return SAMPLE_RATE

    @property
    def expected(self) -> str:
        """The feature shape."""
        return "(B, 80, L) or (B, 1, 80, L) of 80 steps a second"

    def forward(self, audio: Tensor) -> Tensor:
        """Check and convert; also takes the channel axis of an image, which many loaders add."""
        if isinstance(audio, Tensor) and audio.ndim == 4 and audio.shape[1] == 1:
            audio = audio[:, 0]
        return super().forward(audio)

    def encode(self, waveform: Tensor) -> Tensor:
        """Compute the mel spectrogram of a waveform (B, S), steps first."""
        mel: Tensor = self.spectrogram(waveform)
        return mel.transpose(1, 2)

    def convert(self, features: Tensor) -> Tensor:
        """Check a mel spectrogram (B, 80, L) and put the steps first."""
        if features.shape[1] != AUDIO_FEATURES["mel"]:
            raise self.refuse(features)
        return features.transpose(1, 2)
