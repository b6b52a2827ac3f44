"""Drawn clips, in sync and with known audio offsets."""

import pytest

from tools.synthetic.clip import synthesize_clip
from unisync_loss.data.clips import shift_audio
from unisync_loss.video.clip import Clip
from unisync_loss.video.encoding import write_clip

#: frames by which audio that is physically in sync is early for the experts: their zero is that of real corpora, whose
#: audio is late by 0.55 frames (docs/data.md)
ZERO = 0.7
#: frames by which the audio of each clip is late, by that zero
SHIFTS = {"a/ann/1": 6.5, "a/ann/2": -4.0, "a/ben/1": 0.0, "a/ben/2": 0.0}


@pytest.fixture(scope="session")
def shifts():
    return SHIFTS


@pytest.fixture(scope="session")
def drawn():
    """Four people, and the first of them again."""
    people = (700, 701, 702, 703, 700)
    clips = [synthesize_clip(5000 + number, 3.0, speaker_seed=person) for number, person in enumerate(people)]
    return [Clip(clip.frames, clip.waveform) for clip in clips]


@pytest.fixture(scope="session")
def shifted_clips(drawn):
    clips = (drawn[0], drawn[4], drawn[1], drawn[2])
    return {name: shift_audio(clip, -shift - ZERO) for (name, shift), clip in zip(SHIFTS.items(), clips, strict=True)}


@pytest.fixture
def folder(tmp_path, shifted_clips):
    for name, clip in shifted_clips.items():
        path = tmp_path / "data" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, clip.frames, clip.waveform)
    return tmp_path / "data"
