"""Exit codes and error messages of all commands."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["eval", "--data", "gone", "--model", "MODEL"], 1, "no such data folder: gone"),
        (["eval", "--data", "FOLDER", "--model", "no-such-name"], 1, "no-such-name"),
        (["train", "--data", "gone", "--out", "OUT"], 1, "no such data folder: gone"),
        (["train", "--data", "FOLDER", "--out", "OUT", "--audio", "mfcc"], 1, "audio: expected one of mel, hubert"),
        (["train", "--data", "FOLDER", "--out", "OUT", "speed=9"], 1, "speed: expected a key of data"),
        (["train", "--out", "OUT", "--resume"], 1, "expected --data"),
        (["train", "--data", "FOLDER", "--out", "OUT", "--config", "gone.yaml"], 1, "gone.yaml"),
        (["demo", "--video", "gone.mp4", "--out", "OUT", "--model", "MODEL"], 1, "gone.mp4"),
        (["prepare", "gone", "--out", "OUT"], 1, "no such file or folder"),
        (["prepare", "FOLDER", "--out", "FOLDER"], 1, "expected an empty folder or a store"),
        (["prepare", "FOLDER", "--out", "OUT", "--shard", "8"], 2, "expected i/n"),
        (["doctor", "gone"], 2, "no such video file or folder: gone"),
        (["doctor", "EMPTY"], 2, "expected video files"),
        (["eval"], 2, "--data"),
        (["evaluate"], 2, "evaluate"),
    ],
)
def test_exit_codes(unisync, folder, model, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    places = {"FOLDER": folder, "MODEL": model, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    got, _, err = unisync(*(places.get(argument, argument) for argument in arguments))
    assert got == code, err
    assert message in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1


def test_a_process_ends_with_one_line():
    command = [sys.executable, "-m", "unisync_loss.cli", "eval", "--data", "gone"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (1, "unisync: no such data folder: gone\n")
