import json

import numpy as np
import pytest
from helpers.scoring import write_shifted
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
        ([tmp_path / "empty"], "expected videos ("),
        (
            [tmp_path / "x.mp4", "--compare"],
            "compare: expected real videos and at least one path of generated ones",
        ),
        ([tmp_path / "x.mp4", "--film"], "film: expected a folder for the report, got none"),
    ):
        done = CliRunner().invoke(app, ["score", *map(str, arguments), "--model", str(model)])
        assert isinstance(done.exception, (ValueError, OSError)), done.output
        assert message in str(done.exception)


def test_names_of_twins_are_looked_at_before_anything_is_scored(tmp_path, expert, monkeypatch):
    pytest.importorskip("mediapipe")
    monkeypatch.setattr(score_command, "score_video", lambda *given, **named: pytest.fail("scored"))
    folders = [tmp_path / "real", tmp_path / "made"]
    for folder, names in zip(folders, ("ab", "cd"), strict=True):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.mp4").write_text("nothing")
    with pytest.raises(ValueError, match=r"made: expected videos named as the real ones \(a, b\), got c, d"):
        score_command.score_paths(folders, expert, "tiny", reference=True)
    with pytest.raises(ValueError, match="at least one path of generated ones, got one path"):
        score_command.score_paths([folders[0], folders[0]], expert, "tiny", reference=True)
