"""Verdicts from facts, and facts from what is known."""

import numpy as np
import pytest
import torch

from unisync_loss.curation.checks import (
    REMEDIES,
    find_owner,
    find_speed,
    judge_content,
    judge_copies,
    judge_faces,
    judge_speakers,
    judge_splits,
    judge_sync,
    sync_facts,
)
from unisync_loss.curation.duplicates import Repeat
from unisync_loss.curation.measurements import face_facts, movement_facts, sound_facts
from unisync_loss.curation.offset_curves import centred_offset_curve

CLEAN = {
    "clip": "a/b/c.mp4", "split": "", "speaker": "a/b", "fps": 25.0, "sample_rate": 16000, "level": 0.1, "held": 0.1,
    "pauses": 0.4, "face_found": 1.0, "face_width": 0.5, "face_outside": 0.0, "red_less_blue": 40.0, "mouth_moves": 0.6,
    "moves": 20.0, "repeats": 0.0, "offset_frames": 0.2, "confidence": 5.0, "evidence": 3.0,
    "evidence_halves": [2.0, 2.0], "windows": 200,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, None),
        ({"seconds_video": 2.5, "seconds_audio": 3.0}, "lengths differ"),
        ({"seconds_video": 2.96, "seconds_audio": 3.1}, None),
        ({"fps": 12.0}, "low frame rate"),
        ({"repeats": 0.5}, "low frame rate"),
        ({"sample_rate": 8000}, "low sample rate"),
        ({"level": 1e-4}, "silent"),
        ({"moves": 0.4, "repeats": 1.0, "mouth_moves": 0.0}, "static picture"),
        ({"mouth_moves": 0.05}, "frozen mouth"),
        ({"face_found": 0.3}, "no whole face"),
        ({"face_outside": 0.4}, "no whole face"),
        ({"face_width": 0.1}, "not a face crop"),
        ({"red_less_blue": -40.0}, "red and blue swapped"),
    ],
)
def test_content(change, verdict):
    assert [finding.verdict for finding in judge_content({**CLEAN, **change})] == ([verdict] if verdict else [])


UNSURE = {"confidence": 0.4, "evidence": 0.5}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, None),
        ({"offset_frames": -3.1}, "out of sync"),
        ({"offset_frames": 1.2}, None),
        ({"offset_frames": 8.0, **UNSURE}, "no clear offset"),
        ({"offset_frames": 0.3, **UNSURE}, None),
        ({"offset_frames": 8.0, "windows": 20}, None),
        ({"held": 0.5, "pauses": 0.01, **UNSURE}, "music"),
        ({"held": 0.5, "pauses": 0.01}, None),
        ({"held": 0.5, "pauses": 0.01, "confidence": 1.5, "evidence": 0.9}, None),
        ({"evidence_halves": [0.1, 3.0]}, "another voice in a part"),
        ({"evidence_halves": [0.1, 3.0], "windows": 100}, None),
    ],
)
def test_sync(change, verdict):
    assert [finding.verdict for finding in judge_sync({**CLEAN, **change})] == ([verdict] if verdict else [])


def embed(seed, windows=120):
    """A sound and pictures that fit it."""
    noise = torch.Generator().manual_seed(seed)
    sound = torch.randn(windows, 64, generator=noise)
    return sound, sound + torch.randn(windows, 64, generator=noise)


def test_evidence_of_sync_grows_with_length_and_without_sync_does_not():
    long, short = (sync_facts(centred_offset_curve(*embed(0, windows))) for windows in (400, 100))
    assert long["evidence"] == pytest.approx(2 * short["evidence"], rel=0.15)
    apart = [sync_facts(centred_offset_curve(embed(0, n)[0], embed(1, n)[1])) for n in (100, 400)]
    assert max(facts["evidence"] for facts in apart) < 0.4 * short["evidence"]
    late = sync_facts(centred_offset_curve(embed(0, 403)[0][:400], embed(0, 403)[1][3:]))
    assert late["offset_frames"] == pytest.approx(3, abs=0.5)
    assert late["offset_ms"] == pytest.approx(40 * late["offset_frames"], abs=1)


def test_the_half_with_another_voice_shows():
    sound, pictures = embed(0, 200)
    sound = torch.cat([sound[:100], embed(1, 200)[0][100:]])
    first, second = sync_facts(centred_offset_curve(sound, pictures))["evidence_halves"]
    assert first > 5 * abs(second)


def test_a_sound_is_given_back_to_its_pictures():
    clips = [embed(seed) for seed in range(3)]
    owner = find_owner(clips[2][0], [pictures for _, pictures in clips])
    assert owner is not None
    assert owner[0] == 2
    assert find_owner(embed(9)[0], [pictures for _, pictures in clips]) is None


def test_the_speed_of_a_wrongly_tagged_picture():
    sound, pictures = embed(0, 240)
    fast = pictures[torch.arange(200).mul(1.2).round().long()]  # 25 fps tagged 30
    assert find_speed(sound[:200], fast) == pytest.approx(1.2)
    assert find_speed(embed(1, 240)[0], pictures) is None
    assert find_speed(sound, pictures) is None


def test_short_clips_of_a_speaker_are_judged_together():
    rows, curves = [], []
    for seed in range(8):
        sound, pictures = embed(seed, 30)
        curves.append(centred_offset_curve(sound[:25], pictures[4:29]))  # audio 4 frames late
        rows.append({**CLEAN, "speaker": "a/late", **sync_facts(curves[-1])})
    (finding,) = judge_speakers(rows, curves)
    assert (finding.clip, finding.verdict) == ("a/late", "out of sync")
    assert " late, confidence" in finding.detail
    assert judge_speakers(rows, [None] * 8) == []


def test_copies():
    rows = [{"clip": f"{name}.mp4", "split": "train"} for name in "abcdef"]
    sounds = [Repeat(0, 1, 0.0, 2.0, 0.9), Repeat(2, 3, 0.0, 2.0, 0.9)]
    pictures = [Repeat(0, 1, 0.0, 2.0, 0.9), Repeat(0, 2, 0.0, 2.0, 0.9)]
    found = judge_copies(rows, ["1", "2", "3", "4", "5", "5"], sounds, pictures)
    assert {(finding.clip[0], finding.verdict, finding.other[0]) for finding in found} == {
        ("b", "duplicate", "a"),
        ("c", "same pictures under another sound", "a"),
        ("d", "same sound under other pictures", "c"),
        ("f", "duplicate", "e"),
    }
    rows[1]["split"] = "val"
    assert judge_copies(rows, [""] * 6, sounds[:1], pictures[:1])[0].verdict == "same clip in two splits"
    # two faces of one source hear the same sound
    rows[2]["source"] = rows[3]["source"] = "talk.mov"
    assert judge_copies(rows, [""] * 6, sounds[1:], []) == []


def test_splits_and_faces():
    portraits = [np.random.default_rng(seed).uniform(0, 255, (24, 24, 3)).astype(np.float32) for seed in range(3)]
    rows = [
        {"clip": "1", "split": "train", "speaker": "a/x", "source": "s"},
        {"clip": "2", "split": "val", "speaker": "a/x", "source": "t"},
        {"clip": "3", "split": "val", "speaker": "a/y", "source": "s"},
        {"clip": "4", "split": "", "speaker": "a/y"},
    ]
    assert [(row.clip, row.verdict) for row in judge_splits(rows)] == [
        ("a/x", "speaker in two splits"),
        ("s", "source in two splits"),
    ]
    likeness = 0.8 * portraits[0] + 20
    (finding,) = judge_faces(rows, [portraits[0], portraits[1], likeness, portraits[0]])
    assert (finding.clip, finding.other, finding.verdict) == ("3", "1", "same face in two splits")
    assert judge_faces(rows, [*portraits, None]) == []


def test_every_verdict_has_a_remedy_of_one_line():
    assert all(remedy and "\n" not in remedy for remedy in REMEDIES.values())


def test_sound_facts_of_known_sounds():
    times = np.arange(48000) / 16000
    tone = (0.1 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    facts = sound_facts(tone)
    assert facts["level"] == pytest.approx(0.1 / np.sqrt(2), rel=0.01)
    assert facts["held"] > 0.9
    assert (facts["silence"], facts["pauses"]) == (0, 0)
    gated = sound_facts(tone * (times % 1 < 0.52))  # 13 of 25 frames
    assert gated["silence"] == pytest.approx(0.48, abs=1e-3)
    assert gated["pauses"] == pytest.approx(0.48, abs=0.01)
    sweep = np.sin(2 * np.pi * (200 + 400 * times) * times).astype(np.float32)  # a glide is not held
    assert sound_facts(sweep)["held"] < 0.2
    assert sound_facts(np.zeros(48000, np.float32))["level"] == 0


def test_movement_facts():
    cells = np.zeros((30, 16, 16, 3), np.float32)
    assert movement_facts(cells) == {"moves": 0.0, "repeats": 1.0}
    cells[:, 3, 4] = 10.0 * np.arange(30)[:, None]
    assert movement_facts(cells) == {"moves": 60.0, "repeats": 0.0}
    assert movement_facts(cells[np.arange(30) // 2])["repeats"] == pytest.approx(15 / 29, abs=1e-3)


def test_a_clip_without_a_face_has_no_face_facts():
    look = face_facts(np.zeros((4, 64, 64, 3), np.uint8), np.full((4, 468, 2), np.nan, np.float32))
    assert look.facts == {"face_found": 0.0}
    assert look.portrait is None
