"""Offsets of drawn faces whose audio was shifted by known amounts."""

import csv
import json

import numpy as np
import pytest
from helpers.paths import SHARED
from helpers.small_store import write_store

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert
from unisync_loss.curation.align import AlignmentExpert, align, report_lines, round_offset, video_of
from unisync_loss.data.clips import ClipEntry, list_clips, load_clip, shift_audio
from unisync_loss.video.encoding import encode_frames, encode_wav, write_clip


@pytest.fixture(scope="module")
def expert():
    return AlignmentExpert("mel-rgb", load_expert("mel-rgb"))


@pytest.fixture
def store(tmp_path, shifted_clips):
    clips = [
        (
            {"key": name, "frames": len(clip.frames), "source": f"{name}.mov"},
            {"mp4": encode_frames(clip.frames), "wav": encode_wav(clip.waveform)},
        )
        for name, clip in shifted_clips.items()
    ]
    return write_store(tmp_path / "store", clips, source="x")


def read_table(root):
    with (root / "offsets.csv").open(newline="", errors="surrogateescape") as file:
        return {row["clip"][:-4]: row for row in csv.DictReader(file)}


def read_log(root):
    return [json.loads(line) for line in (root / "align.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_known_offsets_are_corrected_and_clips_in_sync_left_alone(kind, expert, request, shifts):
    root = request.getfixturevalue(kind)
    first = align(root, [expert])
    rows = read_table(root)
    assert list(rows) == list(shifts)
    for name, shift in shifts.items():
        assert float(rows[name]["offset_frames"]) == pytest.approx(shift, abs=0.8)
    assert [rows[name]["offset_frames"] for name in ("a/ben/1", "a/ben/2")] == ["0", "0"]
    assert (first["shifted"], first["untouched"], first["left_out"]) == (2, 2, 0)
    assert [entry.offset for entry in list_clips(root)] == [float(row["offset_frames"]) for row in rows.values()]
    assert "2 of 4 clips shifted, 2 unchanged, 0 skipped" in report_lines(first)
    # it starts from the clips without their stored offsets, so the second round agrees with the first
    assert not any(entry.offset for entry in list_clips(root, ignore_offsets=True))
    if kind == "store":
        return  # which differs from a folder in how its clips are listed
    assert align(root, [expert])["moved"] == 0
    assert [line["before"] for line in read_log(root)] == [line["offset_frames"] for line in read_log(root)]


def test_real_clips_come_back_from_known_offsets_and_stay_where_they_are_in_sync(tmp_path, expert):
    root = SHARED / "clips" / "val"
    if not root.is_dir():
        pytest.skip(f"real clips are not here ({root})")
    entries = [entry for entry in list_clips(root) if entry.corpus.startswith("grid")][::8]
    clips = [load_clip(entry) for entry in entries]
    for name, reach in (("clean", 0), ("shifted", 10)):
        shifts = np.random.default_rng(4).uniform(-reach, reach, len(clips))
        rows = []
        for entry, clip, shift in zip(entries, clips, shifts, strict=True):
            late = shift_audio(clip, -shift)
            facts = {"key": entry.name[:-4], "frames": len(late.frames), "source": entry.name}
            rows.append((facts, {"mp4": encode_frames(late.frames), "wav": encode_wav(late.waveform)}))
        store = write_store(tmp_path / name, rows, source="x")
        report = align(store, [expert])
        assert report["left_out"] == 0
        found = [entry.offset for entry in list_clips(store)]
        assert np.abs(np.array(found) - shifts).max() < 1
        if name == "clean":
            assert report["shifted"] == 0


def test_the_reference_offset_is_that_of_the_corpus_named(folder, expert):
    report = align(folder, [expert], zero="a")
    assert report["zero"] == "a"
    for line in read_log(folder):
        assert line["estimate"] == pytest.approx(line["own"] - report["corpora"]["a"]["zero"], abs=0.5)
    with pytest.raises(ValueError, match=r"zero: expected one of \['a'\], got 'c'"):
        align(folder, [expert], zero="c")


def test_a_clip_of_two_speakers_and_a_broken_file_are_skipped_with_the_reason(folder, shifted_clips, expert):
    frames, other = shifted_clips["a/ann/2"].frames[:70], np.roll(shifted_clips["a/ben/1"].waveform, 9000)[: 70 * 640]
    write_clip(folder / "a/ann/2.mp4", frames, other)
    (folder / "a/ben/2.mp4").write_bytes(b"no video")
    (folder / "a/ben/\udcff.mp4").write_bytes(b"a name that is not valid text")
    align(folder, [expert])
    kept = {entry.name for entry in list_clips(folder)}
    assert "a/ben/1.mp4" in kept
    assert not kept & {"a/ben/2.mp4", "a/ben/\udcff.mp4"}
    rows = read_table(folder)
    assert (rows["a/ben/2"]["offset_frames"], rows["a/ben/2"]["level"]) == ("", "none")
    log = {line["clip"]: line for line in read_log(folder)}
    assert "2.mp4" in log["a/ben/2.mp4"]["reason"]
    assert float(rows["a/ann/2"]["peak_z"]) < float(rows["a/ann/1"]["peak_z"])


def test_an_expert_that_can_be_applied_to_no_clip_leaves_the_offsets_as_they_are(folder, expert):
    (folder / "offsets.csv").write_text("clip,offset_frames\na/ann/1.mp4,2\n")
    other = UniSyncExpert(UniSyncConfig(visual="3dmm", visual_features=64))
    with pytest.raises(ValueError, match="3dmm: expected the 40 coefficients that are made from video"):
        align(folder, [AlignmentExpert("x", other)])
    for path in folder.rglob("*.mp4"):
        path.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"none of 4 clips could be read; a/ann/1\.mp4: .*cannot be decoded"):
        align(folder, [expert])
    assert read_table(folder)["a/ann/1"]["offset_frames"] == "2"


def test_no_expert_estimates_a_clip_that_it_was_trained_on(folder, expert, shifts):
    ann, ben = (frozenset(f"{name}.mp4" for name in shifts if speaker in name) for speaker in ("ann", "ben"))
    with pytest.raises(ValueError, match=r"a/ben/1\.mp4: expected an expert not trained on it, got 1 that all were"):
        align(folder, [AlignmentExpert("x", expert.expert, ann)])
    assert not (folder / "align.jsonl").exists()
    report = align(folder, [AlignmentExpert(str(fold), expert.expert, clips) for fold, clips in enumerate((ann, ben))])
    assert report["judges"] == ["0", "1"]
    assert float(read_table(folder)["a/ann/2"]["offset_frames"]) == pytest.approx(-4, abs=0.8)


def test_offsets_below_half_a_frame_are_zero():
    assert [round_offset(value) for value in (0.49, -0.49, 0.5, -1.234)] == [0, 0, 0.5, -1.23]


def test_source_videos_of_files(tmp_path):
    names = ("a/b/talk_01.mp4", "a/b/talk-2.mp4", "a/b/talk.mp4", "a/b/talk_1234.mp4")
    videos = [video_of(ClipEntry(tmp_path / name, name, "a", "b")) for name in names]
    assert videos == ["a/b/talk", "a/b/talk", "a/b/talk", "a/b/talk_1234"]
