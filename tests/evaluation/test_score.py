import json

import numpy as np
import pytest
from helpers.scoring import write_shifted
from helpers.small_store import write_feature_store
from typer.testing import CliRunner

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.cli import app
from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.evaluation import score as score_command
from unisync_loss.video.clip import read_clip

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def face():
    return read_clip(DEFAULT_CLIP, max_frames=110)


@pytest.fixture
def model(tmp_path):
    save_pretrained(UniSyncExpert(UniSyncConfig(embedding=8)), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_files_are_written_and_a_bad_video_does_not_stop_the_rest(tmp_path, model, face):
    pytest.importorskip("mediapipe")
    pytest.importorskip("matplotlib")
    folder = tmp_path / "videos of $mine$"
    folder.mkdir()
    short = face._replace(frames=face.frames[:60], waveform=face.waveform[: 60 * 640])
    write_shifted(folder / "a <b>.mp4", short)
    (folder / "broken.mp4").write_text("nothing")
    arguments = ["score", folder, "--model", model, "--json", tmp_path / "o" / "s.json"]
    arguments += ["--csv", tmp_path / "s.csv", "--report", tmp_path / "report", "--film"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "o" / "s.json").read_text())
    assert report["model"] == str(model)
    good, bad = report["videos"]
    contract = {"track", "offset_frames", "offset_ms", "confidence", "probability_mean", "probability", "fps"}
    assert contract <= set(good["tracks"][0])
    assert bad["error"].startswith("cannot be decoded")
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 3
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a &lt;b&gt;.mp4" in page
    assert "$" not in page.replace("$mine$", "")
    (picture,) = (tmp_path / "report").glob("*.png")
    assert picture.with_suffix(".mp4").is_file()
    assert f'src="{picture.name}"' in page
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert good["sync_matrix"] == picture.with_suffix(".npz").name
    assert f'href="{good["sync_matrix"]}"' in page
    (windows, _), shown = np.load(picture.with_suffix(".npz"))["face_0"].shape, good["tracks"][0]["probability"]
    assert windows == len(shown)


def test_wrong_input(tmp_path, model):
    pytest.importorskip("mediapipe")
    (tmp_path / "x.mp4").write_text("nothing")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["gone.mp4"], "no such video file or folder: gone.mp4"),
        ([tmp_path / "x.mp4"], "x.mp4: cannot be decoded"),
        ([tmp_path / "empty"], "expected video files ("),
        (
            [tmp_path / "x.mp4", "--compare"],
            "compare: expected real videos and at least one path of generated ones",
        ),
        ([tmp_path / "x.mp4", "--film"], "film: expected a folder for the report, got none"),
    ):
        done = CliRunner().invoke(app, ["score", *map(str, arguments), "--model", str(model)])
        assert isinstance(done.exception, (ValueError, OSError)), done.output
        assert message in str(done.exception)


@pytest.fixture
def store_model(tmp_path):
    """Expert on 64 coefficients, which no video gives."""
    save_pretrained(UniSyncExpert(UniSyncConfig(visual="3dmm", embedding=8)), tmp_path / "on_64")
    return tmp_path / "on_64"


@pytest.fixture
def stores(tmp_path, face):
    """Two stores of two clips each, with coefficients."""
    short = face._replace(frames=face.frames[:40], waveform=face.waveform[: 40 * 640])
    made = {"3dmm": lambda rng, frames: rng.normal(size=(frames, 64)).astype(np.float32)}
    clips = {f"a/s{speaker}/0": short for speaker in range(2)}
    return [write_feature_store(tmp_path / name, clips, **made) for name in ("real", "generated")]


def score(model, tmp_path, *arguments):
    arguments = ["score", *arguments, "--model", model, "--json", tmp_path / "s.json"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done, json.loads((tmp_path / "s.json").read_text())


def test_stores_and_videos_together(tmp_path, face, store_model, stores):
    pytest.importorskip("mediapipe")
    pytest.importorskip("matplotlib")
    write_shifted(tmp_path / "b.mp4", face)
    extra = ["--csv", tmp_path / "s.csv", "--report", tmp_path / "report"]
    done, report = score(store_model, tmp_path, stores[0] / "train", tmp_path / "b.mp4", *extra)
    assert done.exit_code == 0, done.output
    *clips, video = report["videos"]
    assert [clip["video"] for clip in clips] == [f"{stores[0]}/train/a/s{speaker}/0.mp4" for speaker in range(2)]
    assert [len(clip["tracks"][0]["probability"]) for clip in clips] == [36, 36]
    assert "with unisync prepare --features and use the store" in video["error"]
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 4
    assert (tmp_path / "report" / "0001_0.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{stores[0]}/train/a/s1/0.mp4" in (tmp_path / "report" / "report.html").read_text()


def test_stores_are_compared_by_clip(tmp_path, store_model, stores):
    done, report = score(store_model, tmp_path, *stores, "--compare")
    assert done.exit_code == 0, done.output
    (row,) = report["comparison"]
    assert (row["group"], row["pairs"]) == (str(stores[1]), 2)
    assert row["measures"]["probability_mean"]["difference"] == 0


def test_a_clip_that_cannot_be_scored_is_named_once(tmp_path, store_model, face):
    write_feature_store(tmp_path / "bare", {"a/s0/0": face})
    done = CliRunner().invoke(app, ["score", str(tmp_path / "bare"), "--model", str(store_model)])
    assert str(done.exception).startswith(f"{tmp_path}/bare/a/s0/0.mp4: 3dmm: expected the 40 coefficients")


def test_clips_of_a_store_make_no_film(tmp_path, model, stores):
    arguments = ["--model", str(model), "--film", "--report", str(tmp_path / "report")]
    done = CliRunner().invoke(app, ["score", str(stores[0]), *arguments])
    assert str(done.exception) == f"film: expected video files, got a store of clips: {stores[0]}"
    assert not (tmp_path / "report").exists()


def test_names_of_twins_are_looked_at_before_anything_is_scored(tmp_path, expert, monkeypatch):
    pytest.importorskip("mediapipe")
    monkeypatch.setattr(score_command, "score_video", lambda *given, **named: pytest.fail("scored"))
    folders = [tmp_path / "real", tmp_path / "made"]
    for folder, names in zip(folders, ("ab", "cd"), strict=True):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.mp4").write_text("nothing")
    with pytest.raises(ValueError, match=r"made: expected videos named as the real ones \(a, b\), got c, d"):
        score_command.score_paths(folders, [expert], "tiny", reference=True)
    with pytest.raises(ValueError, match="at least one path of generated ones, got one path"):
        score_command.score_paths([folders[0], folders[0]], [expert], "tiny", reference=True)
