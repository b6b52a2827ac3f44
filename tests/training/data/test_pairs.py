"""Random pairs: proportions, two speakers, distances, reproducibility."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.pairs import CROSS, FAR, NEAR, POSITIVE, PairSampling, draw_pairs

FRAMES = np.array([10, 75, 30, 200, 12, 55])
SPEAKER = np.array([0, 1, 0, 2, 1, 2])
WEIGHTS = np.array([0.3, 0.1, 0.2, 0.2, 0.1, 0.1])


def draw(sampling, count=20_000, seed=0, speaker=SPEAKER):
    return draw_pairs(sampling, FRAMES, speaker, WEIGHTS, count, np.random.default_rng(seed))


def test_proportions_are_those_asked_for():
    sampling = PairSampling(positive_share=0.5, cross_share=0.2, overlap_share=0.25, min_shift=2)
    count = Counter(draw(sampling).kind.tolist())
    shares = {POSITIVE: 0.5, NEAR: 0.1, FAR: 0.3, CROSS: 0.1}
    assert all(count[kind] == pytest.approx(20_000 * share, abs=1) for kind, share in shares.items())


def test_proportions_hold_in_every_batch():
    for seed in range(50):
        count = Counter(draw(PairSampling(), 64, seed).kind.tolist())
        assert (count[POSITIVE], count[CROSS]) == (pytest.approx(32, abs=1), pytest.approx(6.4, abs=1))


def test_cross_pairs_are_of_two_speakers_and_all_others_of_one_clip():
    pairs = draw(PairSampling(cross_share=0.5))
    cross = pairs.kind == CROSS
    assert (SPEAKER[pairs.clip] != SPEAKER[pairs.audio_clip])[cross].all()
    assert (pairs.clip == pairs.audio_clip)[~cross].all()


def test_other_speakers_are_drawn_by_their_weights():
    pairs = draw(PairSampling(positive_share=0, cross_share=1))
    for clip in range(6):
        others = np.where(SPEAKER != SPEAKER[clip], WEIGHTS, 0)
        drawn = np.bincount(pairs.audio_clip[pairs.clip == clip], minlength=6)
        assert drawn / drawn.sum() == pytest.approx(others / others.sum(), abs=0.03)


def test_shifts_are_what_the_kind_says_and_lie_in_the_clip():
    pairs = draw(PairSampling(min_shift=2))
    shift = np.abs(pairs.audio_start - pairs.start)
    assert (shift[pairs.kind == POSITIVE] == 0).all()
    assert set(shift[pairs.kind == NEAR]) == {2, 3, 4}
    assert shift[pairs.kind == FAR].min() == 5
    for start, clip in ((pairs.start, pairs.clip), (pairs.audio_start, pairs.audio_clip)):
        assert start.min() == 0
        assert (start + 5 <= FRAMES[clip]).all()
        assert (start + 5 == FRAMES[clip]).any()


def test_both_directions_and_all_places():
    pairs = draw(PairSampling(positive_share=0, cross_share=0))
    later = pairs.audio_start > pairs.start
    assert later.mean() == pytest.approx(0.5, abs=0.02)
    assert len(set(pairs.start[pairs.clip == 1])) == 71


def test_the_same_seed_draws_the_same():
    for one, two in zip(draw(PairSampling()), draw(PairSampling()), strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(draw(PairSampling()).start, draw(PairSampling(), seed=1).start)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="two speakers at least, got one"):
        draw(PairSampling(), speaker=np.zeros(6, int))
    draw(PairSampling(cross_share=0), speaker=np.zeros(6, int))
    with pytest.raises(ValueError, match="at least 10 frames, got one of 9"):
        draw_pairs(PairSampling(), FRAMES - 1, SPEAKER, WEIGHTS, 64, np.random.default_rng(0))
    for field, value in (("cross_share", 1.5), ("positive_share", -0.1), ("min_shift", 5), ("min_shift", 0)):
        with pytest.raises(ValueError, match=field):
            replace(PairSampling(), **{field: value})


def test_audio_and_frames_of_a_pair_are_those_of_its_places(folder, cache):
    data = CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(visual="landmarks"), 13)
    sampling, rngs = PairSampling(cross_share=0.5), [np.random.default_rng(3) for _ in range(2)]
    batch = data.draw_pairs(rngs[0], sampling, 16)
    pairs = data.sampler.draw_pairs(rngs[1], sampling, 16)
    for row in range(16):
        visual = data.segments(pairs.clip[row : row + 1], pairs.start[row : row + 1], 5)
        audio = data.segments(pairs.audio_clip[row : row + 1], pairs.audio_start[row : row + 1], 5)
        assert np.array_equal(batch.visual.per_frame[row], visual.visual.per_frame[0])
        assert np.array_equal(batch.audio[row], audio.audio[0])
