import json
import subprocess
import sys

import numpy as np
import pytest

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.cli import main
from unisync_loss.video.encoding import write_clip


def unisync(*arguments):
    command = [sys.executable, "-m", "unisync_loss.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    draw = np.random.default_rng(0)
    for name in ("a/ann/1.mp4", "a/ben/2.mp4", "b/cat/3.mp4"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = draw.integers(0, 255, (30, 32, 32, 3), dtype=np.uint8)
        write_clip(path, frames, draw.uniform(-0.3, 0.3, 30 * 640).astype(np.float32))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(UniSyncExpert(UniSyncConfig(embedding=8)), path)
    return path


def test_eval_writes_the_report_that_scripts_rely_on(folder, model, tmp_path):
    done = unisync("eval", "--model", model, "--data", folder, "--seed", 3, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    keys = {"model", "audio", "visual", "clips", "speakers", "seed", "pairs", "retrieval", "by_corpus", "by_language"}
    assert keys <= set(report)
    assert {"accuracy_at_0.5", "accuracy", "threshold", "auc", "n", "ci95"} <= set(report["pairs"])
    assert {"accuracy", "ci95", "n"} <= set(report["retrieval"]["5"])
    assert (report["clips"], report["speakers"], report["seed"]) == (3, 3, 3)
    assert set(report["by_corpus"]) == {"a", "b"}
    assert "AUC" in done.stdout


def test_eval_is_reproducible_and_limited(folder, model, tmp_path):
    for name in ("1.json", "2.json"):
        assert (
            unisync("eval", "--model", model, "--data", folder, "--limit", 2, "--json", tmp_path / name).returncode == 0
        )
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    assert json.loads((tmp_path / "1.json").read_text())["clips"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["eval", "--data", "gone", "--model", "MODEL"], 1, "no such data folder: gone"),
        (["eval", "--data", "FOLDER", "--model", "no-such-name"], 1, "no-such-name"),
        (["train", "--data", "gone", "--out", "OUT"], 1, "no such data folder: gone"),
        (["train", "--data", "FOLDER", "--out", "OUT", "--audio", "mfcc"], 1, "audio: expected one of mel, hubert"),
        (["train", "--data", "FOLDER", "--out", "OUT", "speed=9"], 1, "unknown settings speed"),
        (["train", "--out", "OUT", "--resume"], 1, "expected --data"),
        (["train", "--data", "FOLDER", "--out", "OUT", "--config", "gone.yaml"], 1, "gone.yaml"),
        (["demo", "--video", "gone.mp4", "--out", "OUT", "--model", "MODEL"], 1, "gone.mp4"),
        (["prepare", "gone", "--out", "OUT"], 1, "no such file or folder"),
        (["prepare", "FOLDER", "--out", "FOLDER"], 1, "expected an empty folder or a store"),
        (["prepare", "FOLDER", "--out", "OUT", "--shard", "8"], 2, "expected i/n"),
        (["doctor", "gone"], 2, "no such video file or folder: gone"),
        (["doctor", "EMPTY"], 2, "expected videos"),
        (["eval"], 2, "--data"),
        (["evaluate"], 2, "evaluate"),
    ],
)
def test_exit_codes(folder, model, tmp_path, arguments, code, message, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    places = {"FOLDER": folder, "MODEL": model, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    # in this process, as a new one takes three seconds to load PyTorch; the next test takes one
    monkeypatch.setattr(sys, "argv", ["unisync", *(str(places.get(argument, argument)) for argument in arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    if isinstance(end.value.code, str):  # what Python prints before it leaves with code 1
        told, end.value.code = f"{told}{end.value.code}", 1
    assert end.value.code == code, told
    assert message in told
    if code == 1:
        assert len(told.strip().splitlines()) == 1


def test_a_process_ends_with_one_line():
    done = unisync("eval", "--data", "gone")
    assert (done.returncode, done.stderr) == (1, "unisync: no such data folder: gone\n")


def test_info(model):
    report = json.loads(unisync("info", model).stdout)
    assert report["audio"] == "mel"
    assert report["parameters"] > 4e6
    assert json.loads(unisync("info").stdout)["version"]
