"""Silence and voice activity by level."""

import numpy as np
import pytest

from unisync_loss.video.voicing import (
    NOISE_FLOOR,
    SILENCE,
    is_silent,
    levels,
    voiced_by_level,
    voiced_windows,
    window_levels,
)


def sound(*amplitudes):
    """0.2 s of an alternating signal per amplitude, whose level is the amplitude."""
    return np.concatenate([a * np.tile([1, -1], 1600) for a in amplitudes]).astype(np.float32)


def test_levels_of_slices_and_of_windows():
    signal = sound(0.5, 0.1)
    assert levels(np.append(signal, 1.0), 3200) == pytest.approx([0.5, 0.1])
    slices = np.lib.stride_tricks.sliding_window_view(signal.astype(np.float64), 3200)[::640]
    assert window_levels(signal) == pytest.approx(np.sqrt((slices**2).mean(1)), rel=1e-12)


def test_a_clip_is_silent_when_its_loudest_window_is():
    assert is_silent(sound(0.9 * SILENCE, 0, 0))
    assert not is_silent(sound(0, 0, 1.1 * SILENCE))


def test_voice_is_relative_to_the_recording():
    assert voiced_by_level(np.array([1.0] * 8 + [0.11, 0.09])).tolist() == [True] * 9 + [False]
    assert not voiced_by_level(np.full(5, 0.9 * NOISE_FLOOR)).any()
    assert voiced_windows(sound(0.5, 0, 0), 8).tolist() == [True] * 5 + [False] * 3
