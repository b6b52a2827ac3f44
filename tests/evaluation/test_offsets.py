import numpy as np
import pytest

from unisync_loss.evaluation.offsets import find_drift, find_offset, local_offsets, offset_curve


def table(windows, offset, noise=0.3, seed=0):
    """Scores with a ridge at an offset, or at an offset for every window."""
    draw = np.random.default_rng(seed)
    distance = np.arange(-15, 16) - np.broadcast_to(offset, windows)[:, None]
    return 0.3 + 0.4 * np.exp(-(distance**2) / 2) + noise * draw.standard_normal((windows, 31))


@pytest.mark.parametrize("offset", [-15, -4, 0, 7, 15])
def test_the_offset_is_that_of_the_ridge(offset):
    found = find_offset(table(400, offset))
    assert found.frames == offset
    assert found.low <= offset <= found.high
    assert found.high - found.low <= 1
    assert found.agreement > 0.95
    assert found.confidence == pytest.approx(0.4, abs=0.1)


def test_noise_alone_has_a_wide_interval_and_little_confidence():
    found = find_offset(table(400, 100))
    assert found.high - found.low > 10
    assert found.confidence < 0.05
    assert found.agreement < 0.9


def test_the_interval_holds_what_it_promises():
    """Of 95 % intervals about one in twenty may miss."""
    held = []
    for seed in range(60):
        found = find_offset(table(60, 3, noise=1.0, seed=seed), seed)
        held.append(found.low <= 3 <= found.high)
    assert np.mean(held) > 0.85


def test_confidence_is_best_less_median():
    values = np.zeros((50, 31))
    values[:, 20] = 0.6
    values[:, :10] = 0.2
    assert find_offset(values).confidence == pytest.approx(0.6)
    assert find_offset(values).frames == 5


def test_missing_audio_is_left_out():
    values = table(100, 2, noise=0.1)
    values[:40] = np.nan
    values[:, 30] = np.nan
    values[70, 30] = 5.0  # one window alone says nothing
    assert find_offset(values).frames == 2
    assert np.isnan(offset_curve(values)[30])
    with pytest.raises(ValueError, match="expected windows that have audio, got none in 20"):
        find_offset(np.full((20, 31), np.nan))


@pytest.mark.parametrize("per_minute", [-300.0, 0.0, 120.0])
def test_drift(per_minute):
    windows = 25 * 60
    drift = find_drift(table(windows, 2 + per_minute / 40 * (np.arange(windows) / windows - 0.5)))
    assert drift.ms_per_minute == pytest.approx(per_minute, abs=25)
    assert drift.low <= per_minute + 1e-9
    assert drift.high >= per_minute - 1e-9
    assert drift.high - drift.low < 120


def test_no_drift_of_a_short_table_and_long_ones_stay_small():
    assert find_drift(table(400, 0)) is None
    assert find_drift(table(100_000, 0)).ms_per_minute == pytest.approx(0, abs=1)


def test_local_offsets():
    values = np.concatenate([table(100, -3), np.full((100, 31), np.nan), table(50, 6)])
    places, offsets, confidence = local_offsets(values, 100)
    assert places.tolist() == [50, 225]
    assert offsets.tolist() == [-3, 6]
    assert confidence.min() > 0.2
    assert [len(column) for column in local_offsets(np.full((10, 31), np.nan), 100)] == [0, 0, 0]
