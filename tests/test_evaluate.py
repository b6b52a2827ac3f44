from pathlib import Path

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.clips import ClipEntry
from unisync_loss.evaluate import (
    ClipEmbedding,
    PairScores,
    accuracy_at,
    area_under_curve,
    best_threshold,
    draw_elsewhere,
    embed_clips,
    estimate_offset,
    retrieve,
    score_pairs,
    summarise,
    voiced_windows,
)


def clip(windows=60, *, offset=0, noise=0.0, seed=0, corpus="a"):
    """An expert's view of a clip, perfect but for noise; the audio is `offset` frames late."""
    generator = torch.Generator().manual_seed(seed)
    events = torch.randn(windows + 40, 64, generator=generator)
    heard = events[20 - offset : 20 - offset + windows] + noise * torch.randn(windows, 64, generator=generator)
    entry = ClipEntry(Path(f"{seed}.mp4"), f"{corpus}/{seed}/{seed}.mp4", corpus, f"{corpus}/{seed}")
    return ClipEmbedding(entry, heard, events[20 : 20 + windows], np.ones(windows, bool))


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


class TestProtocols:
    def test_perfect_embeddings(self):
        clips = [clip(seed=seed) for seed in range(4)]
        scores = score_pairs(clips, 0)
        assert len(scores.positive) == 240
        assert area_under_curve(scores.positive, scores.negative) == 1
        assert all(retrieve(one, 5).mean() == 1 for one in clips)

    def test_unrelated_embeddings_are_at_chance(self):
        clips = [clip(noise=1e6, seed=seed, windows=200) for seed in range(20)]
        scores = score_pairs(clips, 0)
        assert area_under_curve(scores.positive, scores.negative) == pytest.approx(0.5, abs=0.03)
        hits = np.concatenate([retrieve(one, 5) for one in clips])
        assert hits.mean() == pytest.approx(3 / 31, abs=0.02)

    def test_longer_runs_help(self):
        clips = [clip(noise=6.0, seed=seed, windows=150) for seed in range(10)]
        accuracy = [np.concatenate([retrieve(one, frames) for one in clips]).mean() for frames in (5, 9, 15)]
        assert accuracy[0] < accuracy[1] < accuracy[2]

    @pytest.mark.parametrize("offset", [-7, -1, 0, 5])
    def test_shifted_audio_moves_the_offset(self, offset):
        assert estimate_offset(clip(offset=offset, noise=1.0)) == offset

    def test_same_seed_same_pairs(self):
        clips = [clip(noise=3.0)]
        assert np.array_equal(score_pairs(clips, 5).negative, score_pairs(clips, 5).negative)
        assert not np.array_equal(score_pairs(clips, 5).negative, score_pairs(clips, 6).negative)

    def test_clips_too_short_for_a_negative(self):
        with pytest.raises(ValueError, match="at least 7 frames, got none"):
            score_pairs([clip(windows=2)], 0)

    def test_voiced(self):
        sound = np.zeros(20 * 640, np.float32)
        sound[10 * 640 :] = 0.3
        voiced = voiced_windows(sound, 16)
        assert voiced.tolist() == [False] * 6 + [True] * 10


def test_report():
    expert = UniSyncExpert(UniSyncConfig(embedding=8, threshold=0.6))
    clips = [clip(noise=2.0, seed=seed, corpus="ab"[seed % 2]) for seed in range(6)]
    report = summarise(clips, expert, "name", seed=3)
    assert set(report) >= {"model", "audio", "visual", "clips", "speakers", "seed", "pairs", "retrieval", "by_corpus"}
    pairs = report["pairs"]
    assert set(pairs) >= {"accuracy_at_0.5", "accuracy", "threshold", "auc", "n", "ci95"}
    assert pairs["threshold"] == 0.6
    assert pairs["n"] == 2 * 6 * 60
    assert pairs["ci95"][0] <= pairs["accuracy"] <= pairs["ci95"][1]
    assert set(report["retrieval"]) == {"5", "7", "9", "11", "13", "15"}
    assert report["by_corpus"]["a"]["n"] + report["by_corpus"]["b"]["n"] == pairs["n"]


def test_other_pairs_are_refused():
    expert = UniSyncExpert(UniSyncConfig(audio="hubert", embedding=8))
    with pytest.raises(ValueError, match="expected a mel-rgb expert"):
        next(embed_clips(expert, [clip().entry]))
