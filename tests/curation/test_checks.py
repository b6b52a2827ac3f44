"""Verdicts from measurements, and sync of known embeddings."""

import pytest
import torch

from unisync_loss.curation.checks import (
    FIXES,
    check_content,
    check_speakers,
    check_sync,
    find_owner,
    find_speed,
    measure_sync,
)
from unisync_loss.curation.offset_curves import centred_offset_curve

CLEAN = {
    "clip": "a/b/c.mp4", "split": "", "speaker": "a/b", "fps": 25.0, "sample_rate": 16000, "level": 0.1, "held": 0.1,
    "pauses": 0.4, "face_found": 1.0, "face_width": 0.5, "face_outside": 0.0, "red_less_blue": 40.0, "mouth_moves": 0.6,
    "moves": 20.0, "repeats": 0.0, "offset_frames": 0.2, "peak_z": 5.0, "evidence": 3.0,
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
    assert [finding.verdict for finding in check_content({**CLEAN, **change})] == ([verdict] if verdict else [])


UNCLEAR = {"peak_z": 0.4, "evidence": 0.5}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, None),
        ({"offset_frames": -3.1}, "out of sync"),
        ({"offset_frames": 1.2}, None),
        ({"offset_frames": 8.0, **UNCLEAR}, "no clear offset"),
        ({"offset_frames": 0.3, **UNCLEAR}, None),
        ({"offset_frames": 8.0, "windows": 20}, None),
        ({"held": 0.5, "pauses": 0.01, **UNCLEAR}, "music"),
        ({"held": 0.5, "pauses": 0.01}, None),
        ({"held": 0.5, "pauses": 0.01, "peak_z": 1.5, "evidence": 0.9}, None),
        ({"evidence_halves": [0.1, 3.0]}, "another voice in a part"),
        ({"evidence_halves": [0.1, 3.0], "windows": 100}, None),
    ],
)
def test_sync(change, verdict):
    assert [finding.verdict for finding in check_sync({**CLEAN, **change})] == ([verdict] if verdict else [])


def embed(seed, windows=120):
    """Audio embeddings, and visual ones that match."""
    noise = torch.Generator().manual_seed(seed)
    sound = torch.randn(windows, 64, generator=noise)
    return sound, sound + torch.randn(windows, 64, generator=noise)


def test_evidence_of_sync_grows_with_length_and_without_sync_does_not():
    long, short = (measure_sync(centred_offset_curve(*embed(0, windows))) for windows in (400, 100))
    assert long["evidence"] == pytest.approx(2 * short["evidence"], rel=0.15)
    apart = [measure_sync(centred_offset_curve(embed(0, n)[0], embed(1, n)[1])) for n in (100, 400)]
    assert max(facts["evidence"] for facts in apart) < 0.4 * short["evidence"]
    late = measure_sync(centred_offset_curve(embed(0, 403)[0][:400], embed(0, 403)[1][3:]))
    assert late["offset_frames"] == pytest.approx(3, abs=0.5)
    assert late["offset_ms"] == pytest.approx(40 * late["offset_frames"], abs=1)


def test_the_half_of_another_speaker_has_no_evidence():
    sound, pictures = embed(0, 200)
    sound = torch.cat([sound[:100], embed(1, 200)[0][100:]])
    first, second = measure_sync(centred_offset_curve(sound, pictures))["evidence_halves"]
    assert first > 5 * abs(second)


def test_the_owner_of_an_audio_track_is_found():
    clips = [embed(seed) for seed in range(3)]
    owner = find_owner(clips[2][0], [pictures for _, pictures in clips])
    assert owner is not None
    assert owner[0] == 2
    assert find_owner(embed(9)[0], [pictures for _, pictures in clips]) is None


def test_the_speed_of_a_wrongly_tagged_video():
    sound, pictures = embed(0, 240)
    fast = pictures[torch.arange(200).mul(1.2).round().long()]  # 25 fps tagged 30
    assert find_speed(sound[:200], fast) == pytest.approx(1.2)
    assert find_speed(embed(1, 240)[0], pictures) is None
    assert find_speed(sound, pictures) is None


def test_short_clips_of_a_speaker_are_assessed_together():
    rows, curves = [], []
    for seed in range(8):
        sound, pictures = embed(seed, 30)
        curves.append(centred_offset_curve(sound[:25], pictures[4:29]))  # the audio is 4 frames late
        rows.append({**CLEAN, "speaker": "a/late", **measure_sync(curves[-1])})
    (finding,) = check_speakers(rows, curves)
    assert (finding.clip, finding.verdict) == ("a/late", "out of sync")
    assert " late, peak z" in finding.detail
    assert check_speakers(rows, [None] * 8) == []


def test_every_verdict_has_a_fix_of_one_line():
    assert all(fix and "\n" not in fix for fix in FIXES.values())
