"""Commands survive files that crash or block FFmpeg: each costs itself alone, with the reason."""

import json

import pytest
from helpers import deadly
from typer.testing import CliRunner

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.cli import app
from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.lse import procedures
from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip

pytest.importorskip("mediapipe")
CRASHED, HUNG = "the process that read it died with SIGSEGV", "the process that read it made no progress for"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """One good clip, then two deadly ones, then a good one."""
    clip = read_clip(DEFAULT_CLIP, max_frames=50)
    for name in ("a/ann/1", "a/ben/crash", "a/cat/hang", "b/dan/2"):
        path = tmp_path / "data" / f"{name}.mp4"
        path.parent.mkdir(parents=True)
        write_clip(path, clip.frames, clip.waveform)
    deadly.use(monkeypatch, patience=6.0)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(UniSyncExpert(UniSyncConfig(embedding=8)), path)
    return path


def run(tmp_path, *arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "--json", str(tmp_path / "result.json")])
    assert (tmp_path / "result.json").is_file(), done.output
    return json.loads((tmp_path / "result.json").read_text()), done.output


def check(reasons):
    (crashed, crash), (hung, hang) = sorted(reasons)
    assert crashed.endswith("a/ben/crash.mp4")
    assert hung.endswith("a/cat/hang.mp4")
    assert CRASHED in crash
    assert HUNG in hang


def test_score(tmp_path, data, model):
    videos, _ = run(tmp_path, "score", data, "--model", model)
    check([(video["video"], video["error"]) for video in videos["videos"] if "error" in video])
    assert len(videos["videos"]) == 4


def test_eval(tmp_path, data, model):
    report, _ = run(tmp_path, "eval", "--data", data, "--model", model)
    assert report["clips"] == 2
    check([(row["clip"], row["reason"]) for row in report["left_out"]])


def test_align(tmp_path, data, model):
    run(tmp_path, "align", data, "--model", model)
    rows = [json.loads(line) for line in (data / "align.jsonl").read_text().splitlines()]
    check([(row["clip"], row["reason"]) for row in rows if not row["windows"]])


def test_doctor(tmp_path, data, model):
    report, _ = run(tmp_path, "doctor", data, "--model", model)
    check([(row["clip"], row["detail"]) for row in report["problems"] if row["verdict"] == "unreadable"])


def test_features(tmp_path, data, model):
    report, _ = run(tmp_path, "features", data, "--model", model, "--out", tmp_path / "out")
    assert report["written"] == 2
    check([(row["file"], row["reason"]) for row in report["skipped"]])


@pytest.mark.parametrize("variant", ["wav2lip-lrs", "latentsync"])
def test_lse(tmp_path, data, quick, monkeypatch, variant):
    monkeypatch.setattr(procedures, "load_syncnet", lambda path: quick)
    (tmp_path / "weights").touch()
    report, _ = run(tmp_path, "lse", data, "--weights", tmp_path / "weights", "--variant", variant)
    skipped = [(row["video"], row["reason"]) for row in report["skipped"]]
    check([row for row in skipped if "no face track" not in row[1]])
