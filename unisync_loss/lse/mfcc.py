"""MFCC equal to ``python_speech_features.mfcc(samples, 16000)``, in float64.

Pre-emphasis 0.97, rectangular windows of 400 samples every 160, power of a 512-point FFT over 512, 26 triangles on the
HTK mel scale at whole FFT bins up to 8 kHz, log, orthonormal DCT-II, 13 coefficients, lifter 22, and the log energy of
the step in place of coefficient 0. One step is 10 ms.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import SAMPLE_RATE

# the defaults of python_speech_features, which SyncNet's code uses
COEFFICIENTS = 13  # numcep
WINDOW, HOP, N_FFT = 400, 160, 512  # winlen 25 ms, winstep 10 ms, nfft
BANDS = 26  # nfilt
LIFTER = 22  # ceplifter
PREEMPHASIS = 0.97  # preemph
_FLOOR = torch.finfo(torch.float64).eps  # replaces an energy of exactly 0, as in python_speech_features


def compute_mfcc(samples: Tensor) -> Tensor:
    """Mel-frequency cepstral coefficients, the audio input of SyncNet.

    Args:
        samples: (S,) at 16 kHz in the range of 16-bit integers, of any real dtype, S at least 1. The range matters:
            coefficient 0 is a log energy.

    Returns:
        (L, 13) float64, L = 1 + ceil((S - 400) / 160), at least 1; the last step is padded with zeros.

    Raises:
        ValueError: for another shape, or no samples.
    """
    if samples.ndim != 1 or samples.numel() == 0:
        raise ValueError(f"samples: expected (S,) with S above 0, got {tuple(samples.shape)}")
    signal = samples.double()
    emphasised = torch.cat([signal[:1], signal[1:] - PREEMPHASIS * signal[:-1]])
    steps = 1 + max(0, math.ceil((len(signal) - WINDOW) / HOP))
    padded = F.pad(emphasised, (0, (steps - 1) * HOP + WINDOW - len(signal)))
    power = torch.fft.rfft(padded.unfold(0, WINDOW, HOP), N_FFT).abs().square() / N_FFT
    bank, cosines = _tables(power.device)
    energy, bands = power.sum(1), power @ bank
    coefficients = _floored(bands).log() @ cosines
    coefficients[:, 0] = _floored(energy).log()
    return coefficients


def _floored(energy: Tensor) -> Tensor:
    return torch.where(energy == 0, _FLOOR, energy)


@functools.cache
@torch.inference_mode(False)  # tensors made in inference mode take no part in a later gradient
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Filter bank (257, 26), and DCT with lifter (26, 13), once per device."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)  # HTK's mel scale, up to 8 kHz
    hz = 700 * (10 ** (torch.linspace(0, top, BANDS + 2, dtype=torch.float64) / 2595) - 1)
    edges = ((N_FFT + 1) * hz / SAMPLE_RATE).floor()  # whole bins, unlike librosa's filter bank
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.arange(N_FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising = torch.where((bins >= low) & (bins < middle), (bins - low) / (middle - low), 0.0)
    falling = torch.where((bins >= middle) & (bins < high), (high - bins) / (high - middle), 0.0)
    order = torch.arange(COEFFICIENTS, dtype=torch.float64)
    phase = (2 * torch.arange(BANDS, dtype=torch.float64)[:, None] + 1) * order / (2 * BANDS)
    scale = ((1 + (order > 0).double()) / BANDS).sqrt()
    lifter = 1 + LIFTER / 2 * torch.sin(math.pi * order / LIFTER)
    return (rising + falling).to(device), (torch.cos(math.pi * phase) * (scale * lifter)).to(device)
