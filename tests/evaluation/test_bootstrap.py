import numpy as np
import pytest

from unisync_loss.evaluation.bootstrap import block_mean_ci, bootstrap_ci, mean_ci, ratio_ci, resample_weights


def test_weights_count_draws_with_replacement():
    weights = resample_weights(40)
    assert weights.shape == (1000, 40)
    assert (weights.sum(1) == 40).all()
    # a group is missing from a resample with probability (1 - 1/40)^40
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 40) ** 40, abs=0.01)
    assert np.array_equal(weights, resample_weights(40))
    assert not np.array_equal(weights, resample_weights(40, seed=1))


def test_interval_of_a_mean_is_four_standard_errors_wide():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = mean_ci(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert low < values.mean() < high


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    intervals = [mean_ci(rng.normal(0, 1, 50), seed=seed) for seed in range(200)]
    assert 0.88 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.99


def test_groups_without_a_value_are_ignored():
    values = np.array([0.2, 0.4, np.nan, 0.9, np.nan])
    low, high = mean_ci(values)
    assert 0.2 <= low < 0.5 < high <= 0.9
    assert mean_ci(np.array([0.3, np.nan])) == pytest.approx((0.3, 0.3))


def test_ratio_weights_groups_by_their_counts():
    sums, counts = np.array([90.0, 0.0, 1.0]), np.array([90.0, 10.0, 2.0])
    drawn = np.random.default_rng(0).integers(3, size=(20000, 3))
    expected = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    assert ratio_ci(sums, counts) == pytest.approx(tuple(expected), abs=0.02)


def test_blocks_widen_the_interval_of_a_correlated_series():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    width = np.diff(block_mean_ci(values, 10))[0]
    assert width == pytest.approx(0.02, rel=0.35)  # four standard errors of 0.005
    correlated = np.repeat(values[::10], 10)
    assert np.diff(block_mean_ci(correlated, 10))[0] > 2 * width
    assert np.diff(mean_ci(correlated))[0] < 1.5 * width  # what resampling single values would claim


@pytest.mark.parametrize("length", [1, 2, 7, 25])
def test_short_series_have_an_interval(length):
    low, high = block_mean_ci(np.arange(length, dtype=float), 10)
    assert 0 <= low <= (length - 1) / 2 <= high <= length - 1


def test_no_group():
    with pytest.raises(ValueError, match="expected at least one group, got 0"):
        bootstrap_ci(lambda weights: weights.sum(1), 0)
