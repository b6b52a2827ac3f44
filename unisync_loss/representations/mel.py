"""Mel spectrogram with Wav2Lip's numbers, differentiable, in float32.

Pre-emphasis 0.97, STFT of 800 samples every 200, magnitude, 80 Slaney mel bands of 55 to 7600 Hz, decibels,
-100 … 0 dB mapped to -4 … 4. One step is 12.5 ms.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import AUDIO_FEATURES, SAMPLE_RATE
from unisync_loss.representations.base import AudioInput
from unisync_loss.utils.tensors import describe

N_FFT = 800
HOP = 200
PREEMPHASIS = 0.97
F_MIN, F_MAX = 55.0, 7600.0
FLOOR = 1e-5  # -100 dB
REFERENCE_DB = 20.0


def mel_spectrogram(waveform: Tensor, padding: Literal["reflect", "constant"] = "reflect") -> Tensor:
    """Wav2Lip's mel spectrogram.

    Args:
        waveform: (B, S) at 16 kHz in [-1, 1], S above 400.
        padding: at both ends, ``"reflect"`` (librosa before 0.9: Wav2Lip's released weights) or ``"constant"``.

    Returns:
        (B, 80, L) with L = 1 + S // 200, in [-4, 4]; silence is -4.

    Raises:
        ValueError: for another shape, an integer dtype, or a waveform too short.
        ImportError: when torchaudio is missing or does not fit the installed PyTorch.
    """
    if waveform.ndim != 2 or not waveform.is_floating_point() or waveform.shape[1] <= N_FFT // 2:
        raise ValueError(f"waveform: expected (B, S) floating point with S > {N_FFT // 2}, got {describe(waveform)}")
    with torch.autocast(device_type=waveform.device.type, enabled=False):
        waveform = waveform if waveform.dtype == torch.float64 else waveform.float()
        emphasised = torch.cat([waveform[:, :1], waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]], dim=1)
        padded = F.pad(emphasised, (N_FFT // 2, N_FFT // 2), mode=padding)
        window = torch.hann_window(N_FFT, dtype=waveform.dtype, device=waveform.device)
        spectrum = torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True).abs()
        mel = _filter_bank().to(spectrum) @ spectrum
        decibels = 20 * mel.clamp(min=FLOOR).log10() - REFERENCE_DB
        return (8 * (decibels + 100) / 100 - 4).clamp(-4, 4)


@functools.cache
def _filter_bank() -> Tensor:
    """Slaney filter bank, (80, 401)."""
    try:
        from torchaudio.functional import melscale_fbanks
    except (ImportError, OSError, RuntimeError) as error:  # the three ways in which torchaudio fails to load
        raise ImportError(
            "the mel spectrogram needs a torchaudio that fits the installed PyTorch "
            f"({torch.__version__}): pip install 'torch==2.11.0' 'torchaudio==2.11.0' ({error})"
        ) from error
    bank: Tensor = melscale_fbanks(N_FFT // 2 + 1, F_MIN, F_MAX, 80, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return bank.T.contiguous()


class MelInput(AudioInput):
    """Waveform (B, S) or mel (B, 80, L) → (B, L, 80)."""

    expected = "(B, 80, L) of 80 steps a second"
    margin = 25  # its filters reach 25 ms; this many frames are whole steps

    def forward(self, audio: Tensor) -> Tensor:
        """Check and convert; see the class for shapes."""
        if not isinstance(audio, Tensor) or not audio.is_floating_point():
            raise self.refuse(audio)
        if audio.ndim == 2:
            audio = mel_spectrogram(audio, self.config.mel_padding)
        elif audio.ndim != 3 or audio.shape[1] != AUDIO_FEATURES["mel"]:
            raise self.refuse(audio)
        return audio.transpose(1, 2)
