"""Exit codes and error messages of all commands."""

import io
import json
import os
import subprocess
import sys

import pytest

from unisync_loss.cli.app import log


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
        (["eval", "--data", "FOLDER", "--json", "FOLDER"], 2, "expected a file, got the folder"),
        (["score", "FOLDER", "--csv", "FOLDER"], 2, "expected a file, got the folder"),
        (["lse", "FOLDER", "--weights", "W", "--json", "FILE/x.json"], 2, "expected a file that can be written"),
        (["eval"], 2, "--data"),
        (["evaluate"], 2, "evaluate"),
    ],
)
def test_exit_codes(unisync, folder, model, tmp_path, arguments, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    places = {"FOLDER": folder, "MODEL": model, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    places["FILE/x.json"] = tmp_path / "file" / "x.json"
    got, _, err = unisync(*(places.get(argument, argument) for argument in arguments))
    assert got == code, err
    assert message in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1


def test_a_process_ends_with_one_line():
    command = [sys.executable, "-m", "unisync_loss.cli", "eval", "--data", "gone"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (1, "unisync: no such data folder: gone\n")


class TestOutputs:
    def test_a_link_stays_a_link(self, unisync, tmp_path):
        (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
        assert unisync("info", "--json", tmp_path / "link.json")[0] == 0
        assert (tmp_path / "link.json").is_symlink()
        assert "version" in json.loads((tmp_path / "target.json").read_text())

    def test_a_pipe_takes_the_result(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        command = [sys.executable, "-m", "unisync_loss.cli", "info", "--json", str(tmp_path / "pipe")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            text = (tmp_path / "pipe").read_text()
            assert process.wait(200) == 0
        assert "version" in json.loads(text)
        assert (tmp_path / "pipe").is_fifo()

    def test_a_device_is_not_replaced(self, unisync):
        assert unisync("info", "--json", "/dev/null")[0] == 0
        assert not os.path.isfile("/dev/null")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
    def test_a_result_that_cannot_be_written_is_printed(self, unisync):
        code, out, err = unisync("info", "--json", "/dev/full")
        assert code == 1
        assert "No space left" in err
        assert '"version"' in out


def test_sigterm_ends_with_a_line(tmp_path):
    os.mkfifo(tmp_path / "settings.yaml")
    command = [sys.executable, "-m", "unisync_loss.cli", "train", "--data", "x", "--out", str(tmp_path / "out")]
    command += ["--config", str(tmp_path / "settings.yaml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        with (tmp_path / "settings.yaml").open("w"):  # opens once the program reads, which waits for a line then
            process.terminate()
            assert process.wait(60) == 143
        assert process.stderr.read() == "unisync: terminated\n"


def test_a_console_of_another_encoding(tmp_path):
    command = [sys.executable, "-m", "unisync_loss.cli", "eval", "--data", str(tmp_path / "\N{TEACUP WITHOUT HANDLE}")]
    environment = {**os.environ, "PYTHONIOENCODING": "cp437"}
    done = subprocess.run(command, capture_output=True, timeout=200, check=False, env=environment)
    assert done.returncode == 1
    assert b"no such data folder" in done.stderr
    assert b"\\U0001f375" in done.stderr


def test_progress_that_cannot_be_printed_costs_nothing(monkeypatch):
    """A full disk behind stderr made a video count as unreadable."""
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(full, write_through=True))
        log("1/2 clips")
