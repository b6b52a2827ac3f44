import math

import numpy as np
import pytest
import torch

from unisync_loss.representations import mel_spectrogram
from unisync_loss.representations.mel import slaney_filters


@pytest.mark.parametrize("padding", ["reflect", "constant"])
def test_equals_wav2lip(golden, padding):
    waveform = torch.from_numpy(golden["wav"].astype(np.float32) / 32768)[None]
    mel = mel_spectrogram(waveform, padding)[0].numpy()
    assert mel.shape == golden[f"mel_{padding}"].shape
    assert np.abs(mel - golden[f"mel_{padding}"]).max() < 1e-4


def reference(waveform: np.ndarray) -> np.ndarray:
    """Wav2Lip's numbers step by step in numpy, frame by frame, with a filter bank built from Slaney's formula."""
    emphasised = np.append(waveform[0], waveform[1:] - 0.97 * waveform[:-1])
    padded = np.pad(emphasised, 400, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)
    frames = [padded[i : i + 800] * window for i in range(0, len(padded) - 799, 200)]
    magnitude = np.abs(np.fft.rfft(frames)).T

    def to_hz(m):
        return np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * math.log(6.4) / 27))

    def to_mel(f):
        return f * 3 / 200 if f < 1000 else 15 + math.log(f / 1000) * 27 / math.log(6.4)

    edges = to_hz(np.linspace(to_mel(55), to_mel(7600), 82))
    hz = np.arange(401) * 20
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    decibels = 20 * np.log10(np.maximum(1e-5, bank @ magnitude)) - 20
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4)


def test_equals_an_independent_computation():
    time = np.arange(8000) / 16000
    waveform = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.random.default_rng(0).standard_normal(8000)
    ours = mel_spectrogram(torch.from_numpy(waveform)[None])[0].numpy()
    assert np.abs(ours - reference(waveform)).max() < 1e-5
    single = mel_spectrogram(torch.from_numpy(waveform.astype(np.float32))[None])[0].numpy()
    assert np.abs(single - ours).max() < 1e-4


def test_silence_is_the_floor():
    assert (mel_spectrogram(torch.zeros(2, 3200)) == -4).all()


@pytest.mark.parametrize("samples", [401, 3200, 3399, 3400, 16000])
def test_length(samples):
    assert mel_spectrogram(torch.zeros(1, samples)).shape == (1, 80, 1 + samples // 200)


def test_float32_under_autocast():
    waveform = torch.randn(1, 3200) / 10
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mel_spectrogram(waveform)
    assert torch.equal(inside, mel_spectrogram(waveform))


def test_differentiable():
    waveform = (torch.randn(1, 1200, dtype=torch.float64) / 10).requires_grad_()
    mel_spectrogram(waveform).sum().backward()
    step = 1e-6 * torch.randn(1, 1200, dtype=torch.float64)
    with torch.no_grad():
        change = (mel_spectrogram(waveform + step) - mel_spectrogram(waveform - step)).sum() / 2
    assert torch.allclose((waveform.grad * step).sum(), change, rtol=1e-4)


@pytest.mark.parametrize("bank", [(80, 800, 55.0, 7600.0), (80, 400, 0.0, 8000.0), (128, 400, 0.0, 8000.0)])
def test_filter_bank_has_no_empty_filter(bank):
    filters = slaney_filters(*bank)
    assert filters.shape == (bank[0], bank[1] // 2 + 1)
    assert (filters.sum(1) > 0).all()


@pytest.mark.parametrize("waveform", [torch.zeros(3200), torch.zeros(1, 400), torch.zeros(1, 3200, dtype=torch.int16)])
def test_wrong_input(waveform):
    with pytest.raises(ValueError, match=r"expected \(B, S\) floating point with S > 400, got"):
        mel_spectrogram(waveform)


def test_no_tensor_and_no_padding():
    with pytest.raises(ValueError, match="waveform: expected a tensor, got ndarray"):
        mel_spectrogram(np.zeros((1, 1600)))
    with pytest.raises(ValueError, match='padding: expected "reflect" or "constant", got None'):
        mel_spectrogram(torch.zeros(1, 1600), None)
