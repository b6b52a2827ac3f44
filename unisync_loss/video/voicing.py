"""Silence and voice activity by level: root mean square of samples in [-1, 1].

Two absolute thresholds serve all commands. They are applied to the statistic that fits what is decided:

| decided | statistic | threshold |
|---|---|---|
| ``prepare``: a clip has no voice | loudest 0.2 s | :data:`SILENCE` |
| ``doctor``: a clip is silent | 90th percentile of 40 ms levels | :data:`SILENCE` |
| ``doctor``: a slice can be compared with other audio | its level | :data:`SILENCE` |
| ``demo``: a part of the clip is silent | level of the part | :data:`SILENCE` |
| ``score``: a video has no audible audio at all | loudest 0.2 s | :data:`NOISE_FLOOR` |
| a window is voiced, relative to its recording | its level | :func:`voiced_by_level` |
"""

from __future__ import annotations

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from unisync_loss.config import SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.utils.tensors import Array

SILENCE = 1e-3  # -60 dB: far below speech, above the noise of 16-bit recordings
#: -80 dB, 20 dB above the rounding noise of 16-bit samples: quiet speech is scored, but not taken for training
NOISE_FLOOR = 1e-4
VOICED = 0.1  # fraction of a recording's loud level (95th percentile) above which a window counts as voiced


def levels(waveform: NDArray[np.float32], size: int) -> Array:
    """Levels of consecutive slices of ``size`` samples, (S,) → (S // size,) float64."""
    whole = waveform[: waveform.size // size * size].astype(np.float64)
    return np.sqrt((rearrange(whole, "(n s) -> n s", s=size) ** 2).mean(1))


def window_levels(waveform: NDArray[np.float32]) -> Array:
    """Levels of the 0.2 s windows that begin at each frame, (640 T,) → (T - 4,) float64."""
    power = levels(waveform, SAMPLES_PER_FRAME) ** 2
    return np.sqrt(np.convolve(power, np.full(WINDOW_FRAMES, 1 / WINDOW_FRAMES), "valid"))


def is_silent(waveform: NDArray[np.float32]) -> bool:
    """Whether no 0.2 s of a clip (S,), S at least 3200, reaches :data:`SILENCE`."""
    return bool(levels(waveform, WINDOW_FRAMES * SAMPLES_PER_FRAME).max() < SILENCE)


def voiced_windows(waveform: NDArray[np.float32], windows: int) -> NDArray[np.bool_]:
    """Voice activity of the first ``windows`` 0.2 s windows of a recording (640 T,), by level."""
    return voiced_by_level(window_levels(waveform)[:windows])


def voiced_by_level(level: Array) -> NDArray[np.bool_]:
    """Voice activity from levels of one recording: (W,) → (W,)."""
    voiced: NDArray[np.bool_] = level > max(VOICED * float(np.percentile(level, 95)), NOISE_FLOOR)
    return voiced
