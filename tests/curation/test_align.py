"""Offsets: closed forms of the mathematics, drawn faces shifted by known offsets, views for cross-fitting."""

import csv
import json

import numpy as np
import pytest
import torch
from helpers.paths import SHARED
from helpers.small_store import write_store

from tools.synthetic.clip import synthesize_clip
from unisync_loss import load_expert
from unisync_loss.curation.align import Judge, align
from unisync_loss.curation.folds import make_folds, read_unseen
from unisync_loss.curation.offset_curves import centred_offset_curve, find_peak
from unisync_loss.curation.offset_model import gather, shrink, spread_between, stand_out
from unisync_loss.data.clips import list_clips, load_clip, shift_audio
from unisync_loss.video.clip import Clip
from unisync_loss.video.encoding import encode_frames, encode_wav, write_clip

SHIFTS = {"a/ann/1": 6.5, "a/ann/2": -4.0, "a/ben/1": 0.0, "a/ben/2": 0.0}


@pytest.fixture(scope="module")
def judge():
    return Judge("mel-rgb", load_expert("mel-rgb"))


@pytest.fixture(scope="module")
def drawn():
    clips = {}
    for number, (name, shift) in enumerate(SHIFTS.items()):
        clip = synthesize_clip(5000 + number, 3.0, speaker_seed=700 + number // 2)
        clips[name] = shift_audio(Clip(clip.frames, clip.waveform), -shift)
    return clips


@pytest.fixture
def folder(tmp_path, drawn):
    for name, clip in drawn.items():
        path = tmp_path / "data" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, clip.frames, clip.waveform)
    return tmp_path / "data"


@pytest.fixture
def store(tmp_path, drawn):
    clips = [
        (
            {"key": name, "frames": len(clip.frames), "source": f"{name}.mov"},
            {"mp4": encode_frames(clip.frames), "wav": encode_wav(clip.waveform)},
        )
        for name, clip in drawn.items()
    ]
    return write_store(tmp_path / "store", clips, source="x")


def read_table(root):
    with (root / "offsets.csv").open(newline="", errors="surrogateescape") as file:
        return {row["clip"][:-4]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_known_offsets_are_put_right_and_clean_clips_left_alone(kind, judge, request):
    root = request.getfixturevalue(kind)
    first = align(root, [judge])
    rows = read_table(root)
    assert list(rows) == list(SHIFTS)
    for name, shift in SHIFTS.items():
        assert float(rows[name]["offset_frames"]) == pytest.approx(shift, abs=0.8)
    assert [rows[name]["offset_frames"] for name in ("a/ben/1", "a/ben/2")] == ["0", "0"]
    assert (first["shifted"], first["untouched"], first["left_out"]) == (2, 2, 0)
    assert [entry.offset for entry in list_clips(root)] == [float(row["offset_frames"]) for row in rows.values()]
    # it starts from the clips as found, so the second round agrees with the first
    assert align(root, [judge])["moved"] == 0
    log = [json.loads(line) for line in (root / "align.jsonl").read_text().splitlines()]
    assert [line["before"] for line in log] == [line["offset_frames"] for line in log]


def test_real_clips_come_back_from_known_offsets_and_stay_where_they_are_in_sync(tmp_path, judge):
    root = SHARED / "clips" / "val"
    if not root.is_dir():
        pytest.skip(f"real clips are not here ({root})")
    entries = [entry for entry in list_clips(root) if entry.corpus.startswith("grid")][::4]
    clips = [load_clip(entry) for entry in entries]
    for name, reach in (("clean", 0), ("shifted", 10)):
        shifts = np.random.default_rng(4).uniform(-reach, reach, len(clips))
        rows = []
        for entry, clip, shift in zip(entries, clips, shifts, strict=True):
            late = shift_audio(clip, -shift)
            facts = {"key": entry.name[:-4], "frames": len(late.frames), "source": entry.name}
            rows.append((facts, {"mp4": encode_frames(late.frames), "wav": encode_wav(late.waveform)}))
        store = write_store(tmp_path / name, rows, source="x")
        report = align(store, [judge])
        assert report["left_out"] == 0
        found = [entry.offset for entry in list_clips(store)]
        assert np.abs(np.array(found) - shifts).max() < 1
        if name == "clean":
            assert report["shifted"] == 0


def test_a_zero_is_that_of_the_corpus_named(folder, judge):
    (folder / "b").symlink_to(folder / "a")
    rows_before = align(folder, [judge])
    zero = rows_before["corpora"]["a"]["zero"]
    report = align(folder, [judge], zero="a")
    assert report["zero"] == "a"
    log = [json.loads(line) for line in (folder / "align.jsonl").read_text().splitlines()]
    for line in log:
        assert line["estimate"] == pytest.approx(line["own"] - zero, abs=0.5)
    for unknown in ("c", "physical"):
        with pytest.raises(ValueError, match=r"zero: expected one of \['a', 'b'\], got"):
            align(folder, [judge], zero=unknown)


def test_anothers_voice_and_a_broken_file_are_left_out_with_the_reason(folder, drawn, judge):
    write_clip(
        folder / "a/ann/2.mp4", drawn["a/ann/2"].frames[:70], np.roll(drawn["a/ben/1"].waveform, 9000)[: 70 * 640]
    )
    (folder / "a/ben/2.mp4").write_bytes(b"no video")
    (folder / "a/ben/\udcff.mp4").write_bytes(b"a name that is no text")
    align(folder, [judge])
    kept = {entry.name for entry in list_clips(folder)}
    assert "a/ben/1.mp4" in kept
    assert not kept & {"a/ben/2.mp4", "a/ben/\udcff.mp4"}
    rows = read_table(folder)
    assert (rows["a/ben/2"]["offset_frames"], rows["a/ben/2"]["level"]) == ("", "none")
    log = {line["clip"]: line for line in map(json.loads, (folder / "align.jsonl").read_text().splitlines())}
    assert "2.mp4" in log["a/ben/2.mp4"]["reason"]
    assert float(rows["a/ann/2"]["confidence"]) < float(rows["a/ann/1"]["confidence"])


def test_no_clip_is_judged_by_an_expert_that_has_seen_it(folder, tmp_path, judge):
    (folder / "offsets.csv").write_text("clip,offset_frames\na/ann/1.mp4,6.5\na/ann/2.mp4,\n")
    views = make_folds(folder, 2, tmp_path / "folds")
    assert make_folds(folder, 2, tmp_path / "folds") == views  # views are made again
    unseen = [read_unseen(view) for view in views]
    assert unseen[0] | unseen[1] == {f"{name}.mp4" for name in SHIFTS}
    speakers = [{name.split("/")[1] for name in names} for names in unseen]
    assert not speakers[0] & speakers[1]
    seen = [{entry.name: entry.offset for entry in list_clips(view)} for view in views]
    assert [set(part) & names for part, names in zip(seen, unseen, strict=True)] == [set(), set()]
    assert seen[0] | seen[1] == {"a/ann/1.mp4": 6.5, "a/ben/1.mp4": 0.0, "a/ben/2.mp4": 0.0}
    with pytest.raises(ValueError, match="has not seen it"):
        align(folder, [Judge("x", judge.expert, unseen[0])])
    align(folder, [Judge(str(fold), judge.expert, names) for fold, names in enumerate(unseen)])
    assert float(read_table(folder)["a/ann/2"]["offset_frames"]) == pytest.approx(-4, abs=0.8)


def test_folds_of_too_few_speakers(folder, tmp_path):
    with pytest.raises(ValueError, match=r"expected 2 to 2 \(speakers\), got 3"):
        make_folds(folder, 3, tmp_path / "folds")


def test_a_parabola_is_found_to_the_fraction():
    offsets = np.arange(-15, 16)
    peak = find_peak(np.maximum(10 - (offsets - 3.3) ** 2, 0) + 0.01 * np.cos(5.0 * offsets))
    assert peak.offset == pytest.approx(3.3, abs=0.01)
    assert peak.margin > 5
    assert find_peak(-np.abs(offsets + 15.0)).margin == 0  # at the edge
    assert find_peak(np.full(31, np.nan)).margin == 0


def test_a_curve_of_shifted_embeddings_peaks_at_the_shift_whatever_the_length():
    sound = torch.randn(2400, 64, generator=torch.Generator().manual_seed(0))
    for windows in (30, 2300):
        curve = centred_offset_curve(sound[:windows], sound[7 : windows + 7])
        assert round(find_peak(curve.mean).offset) == 7
        assert curve.windows == windows


def test_shrinking_is_the_posterior_of_a_gaussian_tree():
    """Against the covariance matrix written out."""
    draw = np.random.default_rng(1)
    values, noise, groups = draw.normal(size=6), draw.uniform(0.1, 1, 6), np.array([0, 0, 1, 1, 1, 2])
    within, among = 0.3, 0.7
    group = gather(values, noise, groups, within)
    top = gather(*group, np.zeros(3, np.int64), among)
    middle = shrink(*group, top[0][[0] * 3], top[1][[0] * 3], among)
    means, variances = shrink(values, noise, middle[0][groups], middle[1][groups], within)
    flat = 1e5  # nothing is known of the top
    truth = flat + among * (groups[:, None] == groups) + within * np.eye(6)
    gain = truth @ np.linalg.inv(truth + np.diag(noise))
    assert means == pytest.approx(gain @ values, abs=1e-4)
    assert variances == pytest.approx(np.diag(truth - gain @ truth), abs=1e-4)


def test_spreads_are_found_again():
    draw = np.random.default_rng(2)
    groups = np.repeat(np.arange(400), 5)
    noise = draw.uniform(0.1, 0.5, 2000)
    values = draw.normal(size=400)[groups] + draw.normal(0, 0.8, 2000) + draw.normal(0, np.sqrt(noise))
    assert spread_between(values, noise, groups) == pytest.approx(0.64, rel=0.1)
    assert spread_between(values[::5], noise[::5], np.arange(400)) == 0


def test_one_that_stands_out_among_like_ones():
    assert stand_out(np.array([0, 0.1, -0.1, 0.2, 9])).tolist() == [False] * 4 + [True]
    assert not stand_out(np.array([-9.0, -4, 0, 5, 9])).any()
