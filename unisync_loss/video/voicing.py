"""Voice activity per window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisync_loss.utils.tensors import Array

VOICED = 0.1  # share of the clip's loud level above which a window counts as voiced


def voiced_windows(waveform: NDArray[np.float32], windows: int) -> NDArray[np.bool_]:
    """Windows of 0.2 s whose level exceeds a tenth of the clip's loud level."""
    slices = np.lib.stride_tricks.sliding_window_view(waveform, 3200)[::640][:windows]
    return voiced_by_level(np.sqrt((slices.astype(np.float64) ** 2).mean(1)))


def voiced_by_level(level: Array) -> NDArray[np.bool_]:
    """Which windows have a voice in them: (W,) levels of one recording → (W,)."""
    voiced: NDArray[np.bool_] = level > max(VOICED * float(np.percentile(level, 95)), 1e-4)
    return voiced
