"""Drawn clips with known audio offsets, as a folder of videos."""

import pytest

from tools.synthetic.clip import synthesize_clip
from unisync_loss.data.clips import shift_audio
from unisync_loss.video.clip import Clip
from unisync_loss.video.encoding import write_clip

#: frames by which the audio of each clip is late
SHIFTS = {"a/ann/1": 6.5, "a/ann/2": -4.0, "a/ben/1": 0.0, "a/ben/2": 0.0}


@pytest.fixture(scope="session")
def shifts():
    return SHIFTS


@pytest.fixture(scope="session")
def shifted_clips():
    clips = {}
    for number, (name, shift) in enumerate(SHIFTS.items()):
        clip = synthesize_clip(5000 + number, 3.0, speaker_seed=700 + number // 2)
        clips[name] = shift_audio(Clip(clip.frames, clip.waveform), -shift)
    return clips


@pytest.fixture
def folder(tmp_path, shifted_clips):
    for name, clip in shifted_clips.items():
        path = tmp_path / "data" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, clip.frames, clip.waveform)
    return tmp_path / "data"
