import doctest
import itertools
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

import tools.synthetic.clip
from tools.synthetic.clip import articulate, plan_clip, synthesize_clip
from unisync_loss.video.clip import read_clip


@pytest.fixture(scope="module")
def clip():
    return synthesize_clip(3, seconds=4.0, size=64)


def test_shapes_and_ranges(clip):
    assert clip.frames.shape == (100, 64, 64, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.waveform.shape == (100 * 640,)
    assert clip.waveform.dtype == np.float32
    assert 0.1 < np.abs(clip.waveform).max() < 1
    assert 0 <= clip.mouth_opening.min() < 0.05
    assert clip.mouth_opening.max() <= 1.05


def test_same_seed_same_clip():
    first, second = (synthesize_clip(5, seconds=0.6, size=48, speaker_seed=2) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_speaker_keeps_face_and_voice_but_not_the_words():
    plans = [plan_clip(seed, 2.0, speaker_seed=4) for seed in (1, 2)]
    assert plans[0].identity == plans[1].identity
    assert plans[0].voice == plans[1].voice
    assert plans[0].segments != plans[1].segments
    assert plan_clip(1, 2.0, speaker_seed=5).identity != plans[0].identity


@pytest.mark.parametrize("seconds", [0.4, 1.2, 3.0])
def test_sentences_fill_their_time(seconds):
    for seed in range(60):
        segments = plan_clip(seed, seconds).segments
        assert segments[0].start == 0
        assert segments[-1].end == pytest.approx(seconds)
        assert all(a.end == pytest.approx(b.start) for a, b in itertools.pairwise(segments))


def test_lips_close_for_p_b_m_and_at_rest():
    shut = 0
    for seed in range(10):
        segments = plan_clip(seed, 4.0).segments
        opening = articulate(segments)[:, 0]  # one row per millisecond
        for segment in segments:
            middle = round(500 * (segment.start + segment.release))
            if segment.symbol in "pbm":
                shut += 1
                assert opening[middle] < 0.05, (seed, segment)
        assert opening[-1] < 0.05
    assert shut > 10


def test_the_mouth_follows_the_voice_without_delay(clip):
    level = np.sqrt((clip.waveform.reshape(100, 640) ** 2).mean(1))
    lags = range(-6, 7)
    curve = [np.corrcoef(clip.mouth_opening[8:92], level[8 + lag : 92 + lag])[0, 1] for lag in lags]
    assert max(curve) > 0.4
    assert abs(lags[int(np.argmax(curve))]) <= 1


def test_wrong_input():
    with pytest.raises(ValueError, match="at least one frame"):
        synthesize_clip(0, seconds=0.0)
    with pytest.raises(ValueError, match="at least 32 pixels, got 8"):
        synthesize_clip(0, seconds=1.0, size=8)
    with pytest.raises(ValueError, match="expected 0 or more, got seed -1"):
        synthesize_clip(-1)


def test_the_embedded_clip():
    path = ROOT / "unisync_loss" / "assets" / "demo.mp4"
    clip = read_clip(path)
    assert path.stat().st_size <= 300 * 1024
    assert clip.frames.shape == (225, 192, 192, 3)


def test_docstrings():
    failed, tried = doctest.testmod(tools.synthetic.clip)
    assert tried > 0
    assert failed == 0


def test_command(tmp_path):
    command = [sys.executable, "-m", "tools.synthetic", "--out", tmp_path]
    options = ["--speakers", "2", "--clips", "1", "--seconds", "0.4", "--size", "64"]
    subprocess.run([*command, *options], cwd=ROOT, check=True, timeout=120)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4")) == [
        "synthetic/s00/0.mp4",
        "synthetic/s01/0.mp4",
    ]
