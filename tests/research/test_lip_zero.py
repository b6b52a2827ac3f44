"""The physical zero: drawn mouths and voices shifted by known amounts, without pictures."""

import json
import math

import numpy as np
import pytest
from helpers.small_store import write_store

from research.lip_zero.__main__ import main
from research.lip_zero.closures import Zero, find_partings, find_zero, level_rise, lip_gap, rises_at
from research.lip_zero.zero import read_rises, settle_zeros
from tools.synthetic.clip import articulate, plan_clip
from tools.synthetic.voice import TICKS, synthesize_voice
from unisync_loss.data.clips import ClipEntry, list_clips
from unisync_loss.representations.face_topology import MESH_POINTS
from unisync_loss.video.encoding import encode_wav

SECONDS, CLIPS = 5.0, 12
FRAME = 640


@pytest.fixture(scope="module")
def drawn():
    """Lip gap (T,) over the face's height, and waveform (640 T,), of people who do not exist."""
    clips = []
    for seed in range(CLIPS):
        plan = plan_clip(seed, SECONDS)
        opening = articulate(plan.segments)[:: TICKS // 25, 0][: round(25 * SECONDS)]
        voice = synthesize_voice(np.random.default_rng(plan.noise_seed), plan.voice, plan.segments)
        clips.append((0.01 + 0.1 * opening, voice))
    return clips


def zero_of(clips, late=0.0):
    """Zero of clips whose sound is made late by so many frames."""
    samples = round(late * FRAME)
    shifted = [(gap, np.pad(voice, (max(samples, 0), max(-samples, 0)))) for gap, voice in clips]
    cut = [(gap, voice[max(-samples, 0) :][: len(gap) * FRAME]) for gap, voice in shifted]
    return find_zero([rises_at(level_rise(voice), find_partings(gap)) for gap, voice in cut])


def test_drawn_faces_are_in_sync_and_the_zero_goes_with_the_sound(drawn):
    still = zero_of(drawn)
    assert still.is_reliable
    assert abs(still.offset) < 0.5
    assert still.low <= still.offset <= still.high
    for late in (3.0, 1.3, -0.4, -2.0):
        moved = zero_of(drawn, late)
        assert moved.offset - still.offset == pytest.approx(late, abs=0.05)
        assert moved.is_reliable


def test_partings_lie_at_the_fastest_opening():
    times = np.arange(60.0)
    closing = 0.05 - 0.045 * np.exp(-(((times - 20) / 4) ** 2))
    for middle in (22.3, 22.8, 23.1):
        gap = np.where(times < 21, closing, 0.005 + 0.05 / (1 + np.exp(-(times - middle) * 2)))
        assert find_partings(gap) == pytest.approx([middle], abs=0.1)
    assert find_partings(np.full(60, 0.01)).size == 0
    assert find_partings(closing + 0.05).size == 0  # lips that stay apart
    assert find_partings(np.where(times < 21, 0.005, gap)).size == 0  # a mouth at rest that opens
    assert find_partings(gap[:2]).size == 0


def test_the_rise_is_that_of_a_burst_and_not_of_voicing_through_closed_lips():
    times = np.arange(16000) / 16000
    bar = 0.3 * np.sin(2 * np.pi * 120 * times) * (times > 0.2)
    burst = 0.2 * np.random.default_rng(0).normal(size=16000) * (times > 0.5)
    rise = level_rise((bar + burst).astype(np.float32))
    assert len(rise) == 1001
    assert abs(int(rise.argmax()) - 500) <= 10
    assert rise[150:250].max() < rise.max() / 3
    assert level_rise(np.zeros(FRAME, np.float32)).max() == 0


def test_others_voices_and_too_little_are_not_sure(drawn):
    other = [(gap, drawn[index - 5][1]) for index, (gap, _) in enumerate(drawn)]
    assert not zero_of(other).is_reliable
    assert not zero_of(drawn[:4]).is_reliable
    assert Zero(0.3, 0.1, 0.5, 30, 10).is_reliable
    assert not any(
        zero.is_reliable for zero in (Zero(0.3, 0.1, 0.5, 29, 10), Zero(0.3, 0.1, 0.5, 30, 9), Zero(0, -0.6, 0, 30, 10))
    )
    nothing = find_zero([np.zeros((0, 401), np.float32)])
    assert (nothing.partings, nothing.is_reliable, math.isnan(nothing.offset)) == (0, False, True)


def test_the_gap_is_measured_in_pixels_over_the_height_of_the_face():
    mesh = np.zeros((2, MESH_POINTS, 3), np.float32)
    mesh[:, 152] = (0.5, 0.9, 0)  # chin
    mesh[:, 10] = (0.5, 0.1, 0)  # forehead
    mesh[:, (82, 13, 312)] = (0.5, 0.6, 0)
    mesh[:, (87, 14, 317)] = (0.5, 0.68, 7)
    assert lip_gap(mesh, (100, 100)) == pytest.approx([0.1, 0.1])
    mesh[:, (87, 14, 317)] = (0.58, 0.6, 0)
    assert lip_gap(mesh, (100, 200)) == pytest.approx([0.2, 0.2])


@pytest.fixture
def store(tmp_path, drawn):
    """Corpus a, its sound two frames late; b with two clips only; their meshes, and no frames."""
    from safetensors.numpy import save

    clips = []
    for number, (gap, voice) in enumerate(drawn):
        mesh = np.full((len(gap), MESH_POINTS, 3), 0.5, np.float16)
        mesh[:, 10, 1], mesh[:, 152, 1] = 0.0, 1.0
        mesh[:, (87, 14, 317), 1] = 0.5 + gap[:, None]
        late = np.pad(voice, (2 * FRAME, 0))[: len(voice)]
        members = {"mp4": b"", "wav": encode_wav(late), "safetensors": save({"mesh": mesh})}
        key = f"{'b' if number < 2 else 'a'}/ann/{number}"
        clips.append(({"key": key, "frames": len(gap), "source": f"{key}.mov"}, members))
    return write_store(tmp_path / "store", clips, source="x")


def test_a_zero_is_measured_from_a_stores_landmarks(store):
    entries = list_clips(store)
    found = settle_zeros(read_rises(entries, [0.0] * len(entries)))
    # what is 2 frames late was judged to be in sync: the expert's 0 must move
    assert found["a"]["zero"] == pytest.approx(-2, abs=0.5)
    low, high = found["a"]["interval"]
    assert low <= found["a"]["zero"] <= high
    assert (found["a"]["basis"], found["b"]["basis"]) == ("corpus", "others")
    assert found["b"]["zero"] == found["a"]["zero"]
    right = settle_zeros(read_rises(entries, [2.0] * len(entries)))
    assert right["a"]["zero"] == pytest.approx(found["a"]["zero"] + 2, abs=0.05)
    assert read_rises(entries, [None] * len(entries)) == {"a": [], "b": []}


def test_the_command_measures_from_the_estimates_of_align(store, tmp_path, capsys):
    with pytest.raises(SystemExit, match="run `unisync align"):
        main(store)
    rows = [{"clip": entry.name, "estimate": 2.0} for entry in list_clips(store)]
    log = store / "align.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(SystemExit, match=f"got none for {rows[0]['clip']}"):
        main(store)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(store, tmp_path / "zero.json")
    zero = json.loads((tmp_path / "zero.json").read_text())["a"]["zero"]
    assert zero == pytest.approx(0, abs=0.5)
    assert f"a: in sync at an estimate of {zero:+.2f} frames, by corpus; its own [" in capsys.readouterr().out


def test_small_corpora_are_measured_together(drawn):
    clips = [rises_at(level_rise(voice), find_partings(gap)) for gap, voice in drawn]
    found = settle_zeros({"a": clips[:6], "b": clips[6:]})
    assert [row["basis"] for row in found.values()] == ["small corpora", "small corpora"]
    assert found["a"]["zero"] == found["b"]["zero"] == pytest.approx(-find_zero(clips).offset, abs=1e-3)


def test_nothing_sure_is_told_as_such(drawn):
    rises = {"a": [rises_at(level_rise(voice), find_partings(gap)) for gap, voice in drawn[:3]], "b": []}
    assert math.isnan(find_zero(rises["a"][:1]).low)  # one clip has no spread between clips
    with pytest.raises(ValueError, match=r"30 partings of lips in 10 clips .* found a \d+ in 3, .*; b 0 in 0, \+nan"):
        settle_zeros(rises)


def test_a_clip_that_cannot_be_read_is_passed_over(tmp_path):
    (tmp_path / "1.mp4").write_bytes(b"no video")
    entry = ClipEntry(tmp_path / "1.mp4", "a/b/1.mp4", "a", "a/b")
    assert read_rises([entry], [0.0]) == {"a": []}
