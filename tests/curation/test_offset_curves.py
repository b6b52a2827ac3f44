"""Curves of shifted embeddings, and peaks of known curves."""

import numpy as np
import pytest
import torch

from unisync_loss.curation.offset_curves import add_curves, centred_offset_curve, find_peak, halves_differ


def test_the_peak_of_a_parabola_is_found_to_a_fraction_of_a_frame():
    offsets = np.arange(-15, 16)
    peak = find_peak(np.maximum(10 - (offsets - 3.3) ** 2, 0) + 0.01 * np.cos(5.0 * offsets))
    assert peak.offset == pytest.approx(3.3, abs=0.01)
    assert peak.z > 5


def test_a_peak_at_the_edge_or_of_nothing_has_z_0():
    assert find_peak(-np.abs(np.arange(-15, 16) + 15.0)).z == 0
    assert find_peak(np.full(31, np.nan)).z == 0


@pytest.mark.parametrize("windows", [30, 2300])  # 2300 windows are compared in chunks
def test_a_curve_of_shifted_embeddings_peaks_at_the_shift(windows):
    audio = torch.randn(2400, 64, generator=torch.Generator().manual_seed(0))
    curve = centred_offset_curve(audio[:windows], audio[7 : windows + 7])  # the audio is 7 frames late
    assert round(find_peak(curve.mean).offset) == 7
    assert curve.windows == windows


def test_curves_add_up_and_halves_are_compared():
    audio = torch.randn(400, 64, generator=torch.Generator().manual_seed(1))
    one = centred_offset_curve(audio[:200], audio[:200])
    moved = centred_offset_curve(audio[:200], torch.cat([audio[:100], audio[101:201]]))  # a frame late from the middle
    assert add_curves([one, moved]).windows == 400
    assert add_curves([one, moved]).total == pytest.approx(one.total + moved.total)
    assert halves_differ(one) == pytest.approx(0, abs=0.1)
    assert halves_differ(moved) == pytest.approx(1, abs=0.1)
