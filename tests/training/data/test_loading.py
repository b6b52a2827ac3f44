"""Clips of training folders: counted, left out with a reason, of one split."""

import numpy as np
import pytest
import torch
from helpers.small_store import write_store

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data import loading
from unisync_loss.training.data.loading import list_folders, load_clips, standardise, stored_coefficients
from unisync_loss.training.settings import expert_config
from unisync_loss.video.encoding import encode_frames, encode_wav


def test_clips_are_counted_and_those_left_out_are_named(folder, cache, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    lines = []
    what = f"{folder}, {tmp_path}"
    data = load_clips(
        what, list_folders([str(folder), str(tmp_path)]), cache, UniSyncConfig(), 13, 1, None, lines.append
    )
    assert data.entries == list_clips(folder)
    assert lines[-2].startswith(f"{what}: left out a/b/gone.mp4: no file that can be read")
    assert lines[-1] == (
        f"{what}: 6 clips, 3 speakers, 0.1 minutes; left out: 1 that cannot be used, 0 shorter than 13 frames"
    )


def test_a_clip_that_another_run_measured_is_counted_once(folder, cache, monkeypatch):
    """Its processes died here, and the other run filled the same cache meanwhile."""
    entries = list_folders([str(folder)])
    failed = {entry.name: "the process that measured it died" for entry in entries[:4]}
    monkeypatch.setattr(loading, "build_cache", lambda *rest: iter([(6, 6, failed)]))
    lines = []
    assert len(load_clips("clips", entries, cache, UniSyncConfig(), 13, 1, None, lines.append)) == 6
    assert lines[-1].endswith("left out: 0 that cannot be used, 0 shorter than 13 frames")
    assert not any("died" in line for line in lines)


def test_mostly_unusable_clips_are_an_error(folder, cache, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in range(7):
        (tmp_path / "a" / "b" / f"{name}.mp4").symlink_to(tmp_path / "nowhere.mp4")
    entries = list_folders([str(folder), str(tmp_path)])
    with pytest.raises(ValueError, match=r"clips: expected most clips to be usable, got 7 of 13 .*0\.mp4', 'no file"):
        load_clips("clips", entries, cache, UniSyncConfig(), 13, 1, None, print)
    assert len(load_clips("clips", entries[:-1], cache, UniSyncConfig(), 13, 1, None, print)) == 6


def test_a_store_of_several_splits_is_refused_before_anything_is_measured(tmp_path):
    frames, audio = np.zeros((10, 192, 192, 3), np.uint8), np.zeros(6400, np.float32)
    members = {"mp4": encode_frames(frames), "wav": encode_wav(audio)}
    rows = [({"key": f"c/s/{split}", "frames": 10, "split": split}, members) for split in ("train", "test")]
    store = write_store(tmp_path / "store", rows, source="x")
    with pytest.raises(ValueError, match="expected clips of one split"):
        load_clips("clips", list_folders([str(store)]), tmp_path / "cache", UniSyncConfig(), 13, 1, None, print)
    assert not (tmp_path / "cache").exists()
    assert [entry.name for entry in list_folders([str(store / "test"), str(store / "train")])] == [
        "c/s/test.mp4",
        "c/s/train.mp4",
    ]
    assert stored_coefficients([str(store / "train")]) is None


def test_coefficients_are_standardised_by_the_training_clips(folder, cache):
    config = expert_config("mel", "3dmm")
    data = load_clips("clips", list_folders([str(folder)]), cache, config, 13, 1, None, print)
    expert = UniSyncExpert(config)
    standardise(expert, data)
    values = torch.from_numpy(data.store.per_frame["per_frame"][:, 0].copy())  # as filmed, not mirrored
    out = expert.visual_input(values[None])
    assert torch.allclose(out.mean((0, 1)), torch.zeros(out.shape[2]), atol=1e-3)
    assert torch.allclose(out.std((0, 1)), torch.ones(out.shape[2]), atol=1e-3)
