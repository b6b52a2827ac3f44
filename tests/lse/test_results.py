import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.lse_videos import noise, write_lossless

from unisync_loss.cli import main
from unisync_loss.video.encoding import write_clip


@pytest.fixture(scope="module")
def weights(syncnet_layers, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    torch.save(syncnet_layers.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos with spaces")
    (root / "below").mkdir()
    write_lossless(root / "a.mkv", *noise(7, seed=1))
    write_lossless(root / "below" / "b.mkv", *noise(8, seed=2))
    write_clip(root / "mute.mp4", noise()[0])
    (root / "text.mp4").write_text("no video")
    (root / "notes.txt").write_text("not looked at")
    return root


def unisync(*arguments):
    command = [sys.executable, "-m", "unisync_loss.cli", "lse", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_the_program(folder, weights, tmp_path):
    out = [tmp_path / "out.json", tmp_path / "out.csv"]
    options = ("--weights", weights, "--variant", "wav2lip-lrs", "--json", out[0], "--csv", out[1])
    done = unisync(folder, folder / "a.mkv", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(out[0].read_text())
    assert [Path(video["video"]).name for video in report["videos"]] == ["a.mkv", "b.mkv"]
    for video in report["videos"]:
        assert {"lse_d", "lse_c", "offset", "variant"} <= set(video)
        assert video["variant"] == report["variant"] == "wav2lip-lrs"
    assert report["means"]["lse_d"] == pytest.approx(np.mean([video["lse_d"] for video in report["videos"]]))
    assert (report["n_videos"], report["n_tracks"], report["n_skipped"]) == (2, 2, 2)
    reasons = {Path(row["video"]).name: row["reason"] for row in report["skipped"]}
    assert "no audio stream" in reasons["mute.mp4"]
    assert "cannot be decoded" in reasons["text.mp4"]
    with out[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [bool(line["skipped"]) for line in lines] == [False, False, True, True]
    assert float(lines[1]["lse_c"]) == report["videos"][1]["lse_c"]
    assert "positive = audio late" in done.stdout
    assert "2 videos, 2 tracks, 2 skipped" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["FOLDER", "--weights", "WEIGHTS", "--variant", "lrs"], 1, "variant: expected one of syncnet, wav2lip-real"),
        (["gone.mp4", "--weights", "WEIGHTS"], 1, "no such video file or folder: gone.mp4"),
        (["FOLDER", "--weights", "gone.model"], 1, "no such weights file: gone.model"),
        (["EMPTY", "--weights", "WEIGHTS"], 1, "expected video files (.mp4"),
        (["FOLDER/text.mp4", "--weights", "WEIGHTS"], 1, "none of 1 videos could be measured"),
        (["FOLDER"], 2, "--weights"),
    ],
)
def test_exit_codes(folder, weights, tmp_path, monkeypatch, capsys, arguments, code, message):
    places = {"FOLDER": folder, "WEIGHTS": weights, "EMPTY": tmp_path, "FOLDER/text.mp4": folder / "text.mp4"}
    monkeypatch.setattr(sys, "argv", ["unisync", "lse", *(str(places.get(part, part)) for part in arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    # sys.exit prints a text and exits with 1
    said = done.value.code if code == 1 else capsys.readouterr().err
    assert message in said
    assert "\n" not in said if code == 1 else done.value.code == code
