"""Random segments and views: sampling weights, distances, tempo."""

import numpy as np
import pytest

from unisync_loss.training.data.sampler import TEMPO, SegmentSampler, speaker_weights

FRAMES = np.array([60, 30, 13, 200])
SAMPLER = SegmentSampler(FRAMES, np.array([0, 0, 1, 2]))


def test_speakers_are_weighted_by_the_root_of_their_duration():
    weights = speaker_weights(np.array([0, 0, 1]), np.array([300, 600, 100]))
    assert weights.sum() == pytest.approx(1)
    assert weights[:2].sum() / weights[2] == pytest.approx(3)
    assert weights[1] / weights[0] == pytest.approx(2)


@pytest.mark.parametrize("tempo_share", [0.0, 1.0])
def test_segments_lie_in_their_clips_at_a_tempo_for_which_there_is_room(tempo_share):
    rng = np.random.default_rng(0)
    for _ in range(50):
        clip, start, tempo = SAMPLER.draw(rng, 4, 2, 13, tempo_share)
        assert sorted(clip[::2]) == [0, 1, 2, 3]
        assert (start >= 0).all()
        assert (start + 12 * tempo <= FRAMES[clip] - 1 + 1e-9).all()
        apart = np.diff(start.reshape(4, 2), axis=1)[:, 0]
        fits = FRAMES[clip[::2]] - 1 >= 25 * tempo[::2]
        slack = np.where(tempo[::2] == 1, 0, 0.999)  # the last start is moved back into the clip
        assert (apart >= 13 * tempo[::2] - slack)[fits].all()
        assert ((tempo == 1) | ((tempo > TEMPO[0]) & (tempo < TEMPO[1]))).all()
        assert (start[tempo == 1] % 1 == 0).all()
        assert (tempo[clip == 3] != 1).all() == bool(tempo_share)


def test_clips_of_views_are_drawn_by_their_weights():
    clip, view = SAMPLER.draw_views(np.random.default_rng(0), 20_000, 8)
    assert np.bincount(clip) / len(clip) == pytest.approx(SAMPLER.weights, abs=0.02)
    assert set(view) == set(range(8))
