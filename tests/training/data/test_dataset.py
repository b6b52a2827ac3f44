"""Cached clips: segments, offsets, tempo, sampling weights."""

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.cache import load_cached
from unisync_loss.training.data.dataset import ClipData, speaker_odds


@pytest.fixture(scope="module")
def data(folder, cache):
    return ClipData(list_clips(folder), cache, UniSyncConfig(), 13)


def test_segments_do_not_overlap_where_there_is_room(data):
    batch = data.draw(np.random.default_rng(0), 6, 2, 13)
    assert batch.seen["cuts"].shape == (12, 13, 80, 80, 3)
    assert batch.audio.shape == (12, 80, int(8 * 3.2) + 16)
    first, second = batch.start[::2], batch.start[1::2]
    assert (second - first >= 13).all()
    assert torch.equal(batch.clip[::2], batch.clip[1::2])
    assert len(batch.clip[::2].unique()) == 6


def test_sound_and_picture_are_of_one_time(data):
    batch = data.segments(np.array([2]), np.array([7]), 13)
    whole = data.segments(np.array([2]), np.array([0]), int(data.frames[2]))
    assert torch.equal(batch.seen["cuts"][0], whole.seen["cuts"][0, 7:20])
    assert torch.equal(batch.audio[0], whole.audio[0, :, 22 : 22 + batch.audio.shape[2]])  # floor(3.2 * 7) = 22


def test_offsets_move_the_sound(folder, cache):
    (folder / "offsets.csv").write_text("clip,offset_frames\ndrawn/s0/0.mp4,5\n")
    try:
        shifted = ClipData(list_clips(folder), cache, UniSyncConfig(), 13)
    finally:
        (folder / "offsets.csv").unlink()
    plain = ClipData(list_clips(folder), cache, UniSyncConfig(), 13)
    assert shifted.frames.tolist() == [25, *plain.frames[1:].tolist()]
    ours = shifted.segments(np.array([0]), np.array([5]), 13).audio
    theirs = plain.segments(np.array([0]), np.array([10]), 13).audio
    assert torch.allclose(ours, theirs, atol=0.01)


def test_another_tempo_moves_sound_and_picture_alike(folder, cache):
    ramp = ClipData(list_clips(folder), cache, UniSyncConfig(), 13)
    cuts = ramp.seen["cuts"]
    frames, steps = np.arange(len(cuts)), np.arange(len(ramp.audio))
    ramp.seen["motion"] = np.broadcast_to(frames[:, None, None], (len(frames), 52, 2)).astype(np.float32)
    ramp.audio = np.broadcast_to(steps[:, None] / 3.2, (len(steps), 80)).astype(np.float32)
    batch = ramp.segments(np.array([0, 0]), np.array([3.5, 4.0]), 13, np.array([1.15, 1.0]))
    for row, start, tempo in ((0, 3.5, 1.15), (1, 4.0, 1.0)):
        assert batch.seen["motion"][row, :, 0, 0].numpy() == pytest.approx(start + tempo * np.arange(13), abs=1e-4)
        step = start + tempo * np.arange(batch.audio.shape[2]) / 3.2
        assert batch.audio[row, 0].numpy() == pytest.approx(step, abs=0.3 if tempo == 1 else 1e-4)
    picture = ramp.segments(np.array([0]), np.array([3.5]), 2).seen["cuts"][0, 0].float()
    assert np.abs(picture.numpy() - (cuts[3].astype(float) + cuts[4]) / 2).max() <= 0.5


def test_speakers_by_the_root_of_their_minutes():
    odds = speaker_odds(np.array([0, 0, 1]), np.array([300, 600, 100]))
    assert odds.sum() == pytest.approx(1)
    assert odds[:2].sum() / odds[2] == pytest.approx(3)
    assert odds[1] / odds[0] == pytest.approx(2)


def test_motion_is_measured_from_where_the_mouth_rests(folder, cache, data):
    batch = data.segments(np.array([2]), np.array([0]), int(data.frames[2]))
    assert batch.seen["motion"].shape == (1, data.frames[2], 52, 2)
    assert np.median(batch.seen["motion"][0].numpy(), axis=0) == pytest.approx(0, abs=1e-6)
    points = torch.from_numpy(load_cached(data.entries[2], cache).points)
    assert torch.allclose(batch.seen["motion"][0].diff(dim=0), points.diff(dim=0), atol=1e-5)
