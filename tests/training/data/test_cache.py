"""Clip cache: contents, completion, failures."""

import os
import signal
from pathlib import Path

import numpy as np

from tools.synthetic.clip import synthesize_clip
from unisync_loss import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.cache import build_cache, load
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.video.encoding import write_clip


def test_what_is_kept(folder, cache):
    clip = load(list_clips(folder)[0], cache, "mouth")
    assert clip["cuts"].shape == (30, 80, 80, 3)
    assert clip["points"].shape == (30, 52, 2)
    assert clip["waveform"].shape == (30 * 640,)


def test_the_face_tracker_follows_the_drawn_mouth(folder, cache):
    correlations = []
    for entry in list_clips(folder):
        speaker, number = int(entry.speaker[-1]), int(Path(entry.name).stem)
        truth = synthesize_clip(10 * speaker + number, seconds=1.2, speaker_seed=speaker).mouth_opening
        inner = load(entry, cache, "mouth")["points"][:, 20:40, 1]
        correlations.append(np.corrcoef(inner.max(1) - inner.min(1), truth)[0, 1])
    assert np.median(correlations) > 0.7


def test_nothing_is_done_twice(folder, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert [step[0] for step in build_cache(list_clips(folder), cache, 1)] == [6]
    assert before == {path: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_a_clip_without_a_face_is_named(tmp_path):
    path = tmp_path / "a" / "b" / "c.mp4"
    path.parent.mkdir(parents=True)
    write_clip(path, np.full((10, 64, 64, 3), 128, np.uint8), np.zeros(6400, np.float32))
    *_, (_, _, skipped) = build_cache(list_clips(tmp_path), tmp_path / "cache", 1)
    assert "expected a face in every frame, found one in 0 of 10" in skipped["a/b/c.mp4"]


def test_a_clip_that_is_gone_and_one_that_kills_are_named(folder, cache, tmp_path, monkeypatch):
    """One file is no longer there, one makes the decoder crash: the others are measured."""
    whole = list_clips(folder)[:2]
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "a" / "b" / "kills.mp4").write_bytes(b"kill")
    monkeypatch.setattr("unisync_loss.training.data.cache._cache_one", dies_of_some)
    *_, (done, total, skipped) = build_cache([*whole, *list_clips(tmp_path)], tmp_path / "cache", 1)
    assert (done, total) == (4, 4)
    assert list(skipped) == ["a/b/gone.mp4", "a/b/kills.mp4"]
    assert "no file that can be read" in skipped["a/b/gone.mp4"]
    assert skipped["a/b/kills.mp4"] == "the process that measured it died with SIGKILL"
    data = CachedClipDataset.from_cache([*whole, *list_clips(tmp_path)], cache, UniSyncConfig(), 13)
    assert data.entries == whole


def dies_of_some(task):
    """Replaces the function that measures a clip."""
    if task[0].path.name == "kills.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return task[0].name, ""
