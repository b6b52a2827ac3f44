from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.scoring import embedded

from unisync_loss.config import UniSyncConfig
from unisync_loss.evaluation.bootstrap import resample_weights
from unisync_loss.evaluation.protocols import (
    PairScores,
    accuracy_at,
    accuracy_ci,
    area_ci,
    area_under_curve,
    best_threshold,
    calibration_error,
    calibration_of,
    draw_elsewhere,
    estimate_offset,
    fit_calibration,
    retrieve,
    score_cross_pairs,
    score_pairs,
    summarise_calibration,
    summarise_detection,
    wins_by_clip,
)
from unisync_loss.functional import unit_rectified


def minus_distance(audio, visual):
    return -torch.linalg.vector_norm(audio - visual, dim=-1)


class TestDraw:
    def test_far_enough_and_uniform(self):
        generator = np.random.default_rng(0)
        drawn = np.stack([draw_elsewhere(9, generator) for _ in range(4000)])
        distance = np.abs(drawn - np.arange(9))
        assert distance.min() == 2
        for window in range(9):
            places, counts = np.unique(drawn[:, window], return_counts=True)
            assert set(places) == {i for i in range(9) if abs(i - window) >= 2}
            assert counts.min() > 0.75 * counts.mean()

    def test_no_place(self):
        assert draw_elsewhere(2, np.random.default_rng(0)).tolist() == [-1, -1]


class TestNumbers:
    def test_area_under_curve(self):
        assert area_under_curve(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
        assert area_under_curve(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == 0.5
        assert area_under_curve(np.array([1.0]), np.array([1.0, 0.0])) == 0.75

    def test_area_of_two_gaussians(self):
        draw = np.random.default_rng(0).standard_normal
        # P(N(1,1) > N(0,1)) = Phi(1 / sqrt 2)
        assert area_under_curve(draw(20000) + 1, draw(20000)) == pytest.approx(0.7602, abs=0.006)

    def test_threshold_is_the_best(self):
        scores = PairScores(np.array([0.6, 0.7, 0.8]), np.array([0.1, 0.2, 0.3]), np.zeros(3, int), np.ones(3, bool))
        assert 0.3 <= best_threshold(scores) < 0.6
        assert accuracy_at(scores, best_threshold(scores)) == 1
        assert accuracy_at(scores, 0.65) == pytest.approx((2 / 3 + 1) / 2)


def logistic_pairs(temperature, midpoint, clips=50, count=20_000):
    """Pairs whose frequency in sync is exactly sigmoid((score - midpoint) / temperature)."""
    rng = np.random.default_rng(0)
    score = rng.random(8 * count)
    in_sync = rng.random(8 * count) < 1 / (1 + np.exp((midpoint - score) / temperature))
    return PairScores(
        score[in_sync][:count], score[~in_sync][:count], rng.integers(clips, size=count), np.ones(count, bool)
    )


class TestCalibration:
    def test_finds_the_curve_that_made_the_pairs(self):
        # symmetrical, so that halves of positives and negatives change nothing
        temperature, midpoint = fit_calibration(logistic_pairs(0.12, 0.5))
        assert temperature == pytest.approx(0.12, rel=0.03)
        assert midpoint == pytest.approx(0.5, abs=0.005)

    def test_error_of_known_frequencies(self):
        target = np.tile([1.0, 0.0, 0.0, 0.0], 500)
        assert calibration_error(np.full(2000, 0.25), target) == pytest.approx(0, abs=1e-9)
        assert calibration_error(np.full(2000, 0.6), target) == pytest.approx(0.35)
        assert calibration_error(target, target) == 0

    def test_calibrated_pairs_have_a_small_error(self):
        row = summarise_calibration(logistic_pairs(0.12, 0.5), (0.12, 0.5), seed=0)
        assert row["error"] < 0.012 < 0.05 < row["error_of_score"]
        assert row["ci95_error"][0] <= row["error"] + 0.01 <= row["ci95_error"][1] + 0.01
        assert row["predicted"] == sorted(row["predicted"])
        assert row["observed"] == pytest.approx(row["predicted"], abs=0.03)

    def test_finite_without_overlap_and_none_for_the_wrong_order(self):
        high, low = np.linspace(0.7, 0.9, 50), np.linspace(0.1, 0.3, 50)
        clip, voiced = np.zeros(50, int), np.ones(50, bool)
        temperature, midpoint = fit_calibration(PairScores(high, low, clip, voiced))
        assert 0 < temperature < 0.1
        assert midpoint == pytest.approx(0.5, abs=0.01)
        assert fit_calibration(PairScores(low, high, clip, voiced)) == (0.0, 0.5)

    def test_of_several_experts(self):
        one, two = (UniSyncConfig(temperature=value, midpoint=0.4) for value in (0.1, 0.2))
        assert calibration_of([one, two]) == pytest.approx((0.15, 0.4))
        assert calibration_of([one, UniSyncConfig()]) is None


class TestProtocols:
    def test_perfect_embeddings(self):
        clips = [embedded(seed=seed) for seed in range(4)]
        scores = score_pairs(clips, 0)
        assert len(scores.positive) == 240
        assert area_under_curve(scores.positive, scores.negative) == 1
        assert all(retrieve(one, 5).mean() == 1 for one in clips)

    def test_unrelated_embeddings_are_at_chance(self):
        clips = [embedded(noise=1e6, seed=seed, windows=200) for seed in range(20)]
        scores = score_pairs(clips, 0)
        assert area_under_curve(scores.positive, scores.negative) == pytest.approx(0.5, abs=0.03)
        hits = np.concatenate([retrieve(one, 5) for one in clips])
        assert hits.mean() == pytest.approx(3 / 31, abs=0.02)

    def test_longer_runs_help(self):
        clips = [embedded(noise=6.0, seed=seed, windows=150) for seed in range(10)]
        accuracy = [np.concatenate([retrieve(one, frames) for one in clips]).mean() for frames in (5, 9, 15)]
        assert accuracy[0] < accuracy[1] < accuracy[2]

    @pytest.mark.parametrize("offset", [-7, -1, 0, 5])
    def test_shifted_audio_moves_the_offset(self, offset):
        assert estimate_offset(embedded(offset=offset, noise=1.0)) == offset

    def test_same_seed_same_pairs(self):
        clips = [embedded(noise=3.0)]
        assert np.array_equal(score_pairs(clips, 5).negative, score_pairs(clips, 5).negative)
        assert not np.array_equal(score_pairs(clips, 5).negative, score_pairs(clips, 6).negative)

    def test_a_peer_with_a_score_of_its_own(self):
        """Minus the distance of unit vectors orders pairs as their cosine: accuracies of order must be the same."""
        clips = [embedded(noise=3.0, seed=seed, windows=100) for seed in range(4)]
        unit = [
            replace(one, audio=unit_rectified(one.audio), visual=unit_rectified(one.visual), score=minus_distance)
            for one in clips
        ]
        for one, two in zip(clips, unit, strict=True):
            assert estimate_offset(one) == estimate_offset(two)
            assert np.array_equal(retrieve(one, 5), retrieve(two, 5))
        areas = [
            area_under_curve(scores.positive, scores.negative)
            for scores in (score_pairs(clips, 0), score_pairs(unit, 0), score_cross_pairs(clips, 0))
        ]
        assert areas[0] == pytest.approx(areas[1], abs=1e-9)
        assert 0.6 < areas[0] < 0.999
        assert areas[2] == pytest.approx(areas[0], abs=0.05)  # events are as unlike in another clip as elsewhere

    def test_cross_speaker_negatives_are_of_another_speaker(self):
        """Every clip says its speaker in place of an embedding."""
        clips = [replace(embedded(seed=seed), audio=torch.full((60, 1), float(seed // 2))) for seed in range(6)]
        clips = [
            replace(
                one,
                entry=replace(one.entry, speaker=f"a/{index // 2}"),
                visual=one.audio,
                score=lambda audio, visual: (audio == visual).float()[:, 0],
            )
            for index, one in enumerate(clips)
        ]
        scores = score_cross_pairs(clips, 0)
        assert scores.positive.min() == 1
        assert scores.negative.max() == 0
        assert len(scores.negative) == 360
        assert score_cross_pairs(clips[:2], 0) is None

    def test_detection_counts_negatives_alone(self):
        scores = PairScores(np.zeros(4), np.array([0.1, 0.55, 0.6, 0.9]), np.arange(4), np.ones(4, bool))
        found = summarise_detection(scores, 0.6, 0)
        assert (found["accuracy_at_0.5"], found["accuracy"], found["n"]) == (0.25, 0.75, 4)
        assert found["ci95"][0] <= 0.75 <= found["ci95"][1]

    def test_intervals_are_those_of_resampled_clips(self):
        """Against the same statistics of pairs gathered clip by clip."""
        scores = score_pairs([embedded(noise=4.0, seed=seed, windows=20 + 5 * seed) for seed in range(9)], 0)
        weights = resample_weights(9)
        drawn = []
        for row in weights[:200].astype(int):
            rows = [np.tile(np.flatnonzero(scores.clip == number), times) for number, times in enumerate(row)]
            sample = scores.where(np.concatenate(rows).astype(int))
            drawn.append((area_under_curve(sample.positive, sample.negative), accuracy_at(sample, 0.5)))
        wins, counts = wins_by_clip(scores), np.bincount(scores.clip)
        areas = ((weights[:200] @ wins) * weights[:200]).sum(1) / (weights[:200] @ counts) ** 2
        assert areas == pytest.approx(np.array(drawn)[:, 0])
        assert area_ci(scores, 0) == pytest.approx(np.percentile(np.array(drawn)[:, 0], [2.5, 97.5]), abs=0.02)
        assert accuracy_ci(scores, 0.5, 0) == pytest.approx(np.percentile(np.array(drawn)[:, 1], [2.5, 97.5]), abs=0.02)

    def test_clips_too_short_for_a_negative(self):
        with pytest.raises(ValueError, match="at least 7 frames, got none"):
            score_pairs([embedded(windows=2)], 0)
