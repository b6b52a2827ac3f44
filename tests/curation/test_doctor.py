"""Ten faults planted in drawn faces are found, each by its own verdict; clean clips have none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.small_store import write_store

from tools.synthetic.clip import synthesize_clip
from unisync_loss import load_expert
from unisync_loss.curation.doctor import examine, list_clip_refs
from unisync_loss.curation.doctor_page import report_table, write_page
from unisync_loss.data.clips import shift_audio
from unisync_loss.video.clip import Clip
from unisync_loss.video.encoding import encode_frames, encode_wav, write_clip

pytest.importorskip("mediapipe")
pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def drawn():
    """Four people, and one of them again."""
    people = (700, 701, 702, 703, 700)
    clips = [synthesize_clip(5000 + number, 3.0, speaker_seed=person) for number, person in enumerate(people)]
    return [Clip(clip.frames, clip.waveform) for clip in clips]


def play(seconds):
    """Chords that are held for half a second each."""
    times = np.arange(int(seconds * 16000)) / 16000
    roots = np.array([220, 277, 330, 247, 294, 196])[(times * 2).astype(int) % 6]
    tones = [0.1 * np.sin(2 * np.pi * times * np.round(roots * step)) for step in (1, 1.25, 1.5, 2)]
    return np.sum(tones, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def roots(tmp_path_factory, drawn):
    top = tmp_path_factory.mktemp("doctor")
    one, two, three, four, again = drawn
    half = three.frames.repeat(2, 1).repeat(2, 2)[:, 96:288, 192:]
    faulty = {
        "train/a/one/clean": one,
        "train/a/two/clean": two,
        "train/a/late/late": shift_audio(four, -3),
        "train/a/swapped/swapped": Clip(three.frames, four.waveform),
        "train/a/swapped/back": Clip(four.frames, three.waveform),
        "train/a/silent/silent": Clip(four.frames, np.zeros_like(four.waveform)),
        "train/a/half/half": Clip(half, three.waveform),
        "train/a/bgr/bgr": Clip(four.frames[..., ::-1], four.waveform),
        "train/a/static/static": Clip(three.frames[:1].repeat(75, 0), three.waveform),
        "train/a/music/music": Clip(three.frames, play(3)),
        "val/a/other/face": again,
    }
    for name, clip in faulty.items():
        path = top / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, np.ascontiguousarray(clip.frames), clip.waveform)
    write_clip(top / "train/a/two/twin.mp4", two.frames[8:], 0.5 * two.waveform[8 * 640 :], crf=30)
    (top / "train/a/rate").mkdir()
    write_clip(top / "train/a/rate/rate.mp4", three.frames, three.waveform, fps=30)
    write_clip(top / "train/a/rate/tiny.mp4", one.frames[:30, :8, :8], one.waveform[: 30 * 640])
    (top / "val/a/two").mkdir()
    (top / "val/a/two/broken.mp4").write_bytes(b"no video")
    return top / "train", top / "val"


@pytest.fixture(scope="module")
def report(roots):
    return examine(list_clip_refs(roots), load_expert("mel-rgb"))


def verdicts_of(report, name):
    return {row["verdict"] for row in report["problems"] if row["clip"].endswith(name)}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("rate.mp4", "lengths differ"),
        ("late.mp4", "out of sync"),
        ("swapped.mp4", "sound of another clip"),
        ("back.mp4", "sound of another clip"),
        ("silent.mp4", "silent"),
        ("twin.mp4", "duplicate"),
        ("a/two", "speaker in two splits"),
        ("half.mp4", "no whole face"),
        ("bgr.mp4", "red and blue swapped"),
        ("static.mp4", "static picture"),
        ("music.mp4", "music"),
        ("face.mp4", "same face in two splits"),
        ("broken.mp4", "unreadable"),
        ("tiny.mp4", "unreadable"),
    ],
)
def test_a_planted_fault_is_found(report, name, verdict):
    assert verdict in verdicts_of(report, name)


def test_clean_clips_have_no_problem(report):
    assert verdicts_of(report, "clean.mp4") == set()


def test_the_facts(report):
    facts = {row["clip"].rsplit("/", 1)[1]: row for row in report["clips"]}
    clean, late = facts["clean.mp4"], facts["late.mp4"]
    assert (clean["fps"], clean["sample_rate"], clean["width"], clean["frames"]) == (25, 16000, 192, 75)
    assert late["offset_frames"] == pytest.approx(3, abs=0.8)
    assert late["offset_ms"] == pytest.approx(40 * late["offset_frames"], abs=1)
    assert facts["silent.mp4"]["level"] < 1e-3
    (rate,) = (row for row in report["problems"] if row["verdict"] == "lengths differ")
    assert "tagged 30 fps, would fit at 25" in rate["detail"]
    train = next(split for name, split in report["splits"].items() if name.endswith("train"))
    assert train["clips"] == 13
    assert train["fps"] == {"25": 12, "30": 1}
    assert train["minutes"] == pytest.approx(12 * 3 / 60, abs=0.03)
    assert train["speaker_clips"]["a/two"] == 2


def test_every_problem_has_a_fix_in_table_and_page(report, roots, tmp_path):
    table = report_table(report)
    entries = {ref.name: ref.entry for ref in list_clip_refs(roots)}
    write_page(report, entries, load_expert("mel-rgb"), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for row in report["problems"]:
        assert f"  {row['clip']}: {row['detail']}" in table
        assert row["remedy"] in table
        assert row["clip"] in page
    pictured = {row["clip"] for row in report["problems"] if row["clip"] != "a/two" and row["verdict"] != "unreadable"}
    assert page.count("data:image/png;base64,") == 1 + len(pictured)  # the overview, and what could be read
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def unisync(*arguments):
    command = [sys.executable, "-m", "unisync_loss.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_exit_code_0_is_clean_and_1_is_not(roots, tmp_path):
    clean, silent = roots[0] / "a/one/clean.mp4", roots[0] / "a/silent/silent.mp4"
    done = unisync("doctor", clean, "--json", tmp_path / "facts.json", "--report", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert "0 problems" in done.stdout
    assert json.loads((tmp_path / "facts.json").read_text())["problems"] == []
    assert (tmp_path / "new/report.html").is_file()
    done = unisync("doctor", silent)
    assert done.returncode == 1
    assert "silent (1)" in done.stdout


def test_a_store_knows_splits_and_sources(tmp_path, drawn):
    clips = [
        (
            {"key": f"a/{split}/0", "frames": 30, "source": "talk.mov", "split": split, "crop_pixels": 80.5},
            {"mp4": encode_frames(clip.frames[:30]), "wav": encode_wav(clip.waveform[: 30 * 640])},
        )
        for split, clip in (("train", drawn[0]), ("val", drawn[1]))
    ]
    file = {"fps": 12.0, "sample_rate": 48000}
    root = write_store(tmp_path / "store", clips, source="talk.mov", file=file)
    found = examine(list_clip_refs([root]), load_expert("mel-rgb"))
    assert found["verdicts"] == {"low frame rate": 2, "source in two splits": 1}
    assert set(found["splits"]) == {"train", "val"}
    assert [row["crop_pixels"] for row in found["clips"]] == [80.5, 80.5]


def test_offsets_found_by_align_are_honoured(tmp_path, drawn):
    path = tmp_path / "data/a/one/late.mp4"
    path.parent.mkdir(parents=True)
    write_clip(path, *shift_audio(drawn[0], -3))
    (tmp_path / "data/offsets.csv").write_text("clip,offset_frames\na/one/late.mp4,3\n")
    assert examine(list_clip_refs([tmp_path / "data"]), load_expert("mel-rgb"))["problems"] == []
