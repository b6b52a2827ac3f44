"""Cached clips: segments, offsets, tempo."""

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.cache import load
from unisync_loss.training.data.dataset import CachedClipDataset


@pytest.fixture(scope="module")
def data(folder, cache):
    return CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)


def test_segments_do_not_overlap_where_there_is_room(data):
    batch = data.draw(np.random.default_rng(0), 6, 2, 13)
    assert batch.visual.cuts.shape == (12, 13, 80, 80, 3)
    assert batch.audio.shape == (12, 80, int(8 * 3.2) + 16)
    first, second = batch.start[::2], batch.start[1::2]
    assert (second - first >= 13).all()
    assert torch.equal(batch.clip[::2], batch.clip[1::2])
    assert len(batch.clip[::2].unique()) == 6


def test_audio_and_frames_are_of_one_time(data):
    batch = data.segments(np.array([2]), np.array([7]), 13)
    whole = data.segments(np.array([2]), np.array([0]), int(data.store.frames[2]))
    assert torch.equal(batch.visual.cuts[0], whole.visual.cuts[0, 7:20])
    assert torch.equal(batch.audio[0], whole.audio[0, :, 22 : 22 + batch.audio.shape[2]])  # floor(3.2 * 7) = 22


def test_offsets_move_the_audio(folder, cache):
    (folder / "offsets.csv").write_text("clip,offset_frames\ndrawn/s0/0.mp4,5\n")
    try:
        shifted = CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)
    finally:
        (folder / "offsets.csv").unlink()
    plain = CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)
    assert shifted.store.frames.tolist() == [25, *plain.store.frames[1:].tolist()]
    ours = shifted.segments(np.array([0]), np.array([5]), 13).audio
    theirs = plain.segments(np.array([0]), np.array([10]), 13).audio
    assert torch.allclose(ours, theirs, atol=0.01)


def test_another_tempo_moves_audio_and_frames_alike(folder, cache):
    ramp = CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)
    cuts = ramp.store.per_frame["cuts"]
    frames, steps = np.arange(len(cuts)), np.arange(len(ramp.store.audio))
    ramp.store.per_frame["motion"] = np.broadcast_to(frames[:, None, None], (len(frames), 52, 2)).astype(np.float32)
    ramp.store.audio = np.broadcast_to(steps[:, None] / 3.2, (len(steps), 80)).astype(np.float32)
    batch = ramp.segments(np.array([0, 0]), np.array([3.5, 4.0]), 13, np.array([1.15, 1.0]))
    for row, start, tempo in ((0, 3.5, 1.15), (1, 4.0, 1.0)):
        assert batch.visual.motion[row, :, 0, 0].numpy() == pytest.approx(start + tempo * np.arange(13), abs=1e-4)
        step = start + tempo * np.arange(batch.audio.shape[2]) / 3.2
        assert batch.audio[row, 0].numpy() == pytest.approx(step, abs=0.3 if tempo == 1 else 1e-4)
    frame = ramp.segments(np.array([0]), np.array([3.5]), 2).visual.cuts[0, 0].float()
    assert np.abs(frame.numpy() - (cuts[3].astype(float) + cuts[4]) / 2).max() <= 0.5


def test_motion_is_measured_from_the_median(folder, cache, data):
    batch = data.segments(np.array([2]), np.array([0]), int(data.store.frames[2]))
    assert batch.visual.motion.shape == (1, data.store.frames[2], 52, 2)
    assert np.median(batch.visual.motion[0].numpy(), axis=0) == pytest.approx(0, abs=1e-6)
    points = torch.from_numpy(load(data.entries[2], cache, "mouth")["points"])
    assert torch.allclose(batch.visual.motion[0].diff(dim=0), points.diff(dim=0), atol=1e-5)
