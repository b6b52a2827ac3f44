"""The hierarchical model against closed forms and drawn values."""

import math

import numpy as np
import pytest

from unisync_loss.curation.offset_model import OffsetTree, group_means, outliers, shrink, spread_between


def test_shrinkage_is_the_posterior_of_a_gaussian_tree():
    """Against the covariance matrix written out."""
    draw = np.random.default_rng(1)
    values, noise, groups = draw.normal(size=6), draw.uniform(0.1, 1, 6), np.array([0, 0, 1, 1, 1, 2])
    within, among = 0.3, 0.7
    group = group_means(values, noise, groups, within)
    top = group_means(*group, np.zeros(3, np.int64), among)
    middle = shrink(*group, top[0][[0] * 3], top[1][[0] * 3], among)
    means, variances = shrink(values, noise, middle[0][groups], middle[1][groups], within)
    flat = 1e5  # nothing is known of the top
    truth = flat + among * (groups[:, None] == groups) + within * np.eye(6)
    gain = truth @ np.linalg.inv(truth + np.diag(noise))
    assert means == pytest.approx(gain @ values, abs=1e-4)
    assert variances == pytest.approx(np.diag(truth - gain @ truth), abs=1e-4)


def test_spreads_are_recovered():
    draw = np.random.default_rng(2)
    groups = np.repeat(np.arange(400), 5)
    noise = draw.uniform(0.1, 0.5, 2000)
    values = draw.normal(size=400)[groups] + draw.normal(0, 0.8, 2000) + draw.normal(0, np.sqrt(noise))
    assert spread_between(values, noise, groups) == pytest.approx(0.64, rel=0.1)
    assert spread_between(values[::5], noise[::5], np.arange(400)) == 0


def test_outliers_are_far_from_values_that_agree():
    assert outliers(np.array([0, 0.1, -0.1, 0.2, 9])).tolist() == [False] * 4 + [True]
    assert not outliers(np.array([-9.0, -4, 0, 5, 9])).any()


def test_a_clip_without_a_peak_takes_the_offset_of_its_speaker_or_corpus():
    values = np.array([2.0, 2.1, 1.9, 0.0, 0.1, -0.1])
    tree = OffsetTree(values, np.full(6, 1e-3), list("abcdef"), ["x"] * 3 + ["y"] * 3)
    level, value, variance = tree.infer("x")
    assert (level, value) == ("speaker", pytest.approx(2.0, abs=0.05))
    assert variance < 0.1
    level, value, variance = tree.infer("z")
    assert (level, value) == ("corpus", pytest.approx(1.0, abs=0.05))
    assert variance > 1  # the speakers differ
    assert tree.facts()["zero"] == pytest.approx(1.0, abs=0.05)


def test_fewer_than_three_confident_clips_predict_nothing():
    tree = OffsetTree(np.array([1.0, 1.1]), np.full(2, 0.1), ["a", "b"], ["x", "x"])
    assert tree.infer("x") == ("none", 0.0, math.inf)
    assert OffsetTree(np.zeros(0), np.zeros(0), [], []).facts() == {}
