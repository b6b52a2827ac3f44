"""Augmentation of waveforms: a changing level, a second voice, coloured noise."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.training.data.augment import random_mask, uniform


def augment_waveforms(waveform: Tensor, *, clean: float = 0.2) -> Tensor:
    """Change the level along each crop, add another crop of the batch, and add coloured noise.

    Args:
        waveform: (B, S) at 16 kHz.
        clean: share of crops left unchanged.

    Returns:
        Same shape.
    """
    count, samples = waveform.shape
    # HuBERT standardises its input, so a constant gain would change nothing: the level drifts from end to end
    first, last = uniform((count, 1), -10, 10), uniform((count, 1), -10, 10)
    changed = waveform * gain_of(first + (last - first) * torch.linspace(0, 1, samples))
    changed = changed + _at_level(waveform[torch.randperm(count)], waveform, uniform((count, 1), -30, -10), share=0.3)
    noise = coloured_noise(count, samples)
    changed = changed + _at_level(noise, waveform, uniform((count, 1), -40, -5), share=0.4)
    return torch.where(random_mask(count, clean)[:, None], waveform, changed)


def coloured_noise(count: int, samples: int) -> Tensor:
    """Noise (count, samples) whose power falls with the frequency by 0 to 6 dB per octave, drawn for each row."""
    spectrum = torch.fft.rfft(torch.randn(count, samples))
    frequency = torch.arange(1, spectrum.shape[1] + 1)
    return torch.fft.irfft(spectrum * frequency ** uniform((count, 1), -1.0, 0.0), samples)


def gain_of(decibels: Tensor) -> Tensor:
    """Factor of the amplitude."""
    return 10 ** (decibels / 20)


def _at_level(added: Tensor, waveform: Tensor, decibels: Tensor, share: float) -> Tensor:
    """Scale rows of ``added`` to a level relative to that of ``waveform``; all but a share of them to 0."""
    level, own = (value.square().mean(1, keepdim=True).sqrt() for value in (waveform, added))
    chosen = random_mask(len(waveform), share)[:, None]
    return added * torch.where(chosen, gain_of(decibels) * level / own.clamp(min=1e-6), torch.zeros(()))
