"""`unisync prepare --features`, `train`, `eval` and `score` with the user's own coefficients and parsing maps."""

import json
import sys

import pytest
from typer.testing import CliRunner

from unisync_loss import load_expert
from unisync_loss.cli import app

pytest.importorskip("av")
pytest.importorskip("mediapipe")

#: features in which the mouth opens with the audio level
HOOK = """
import numpy as np

def features(frames, waveform):
    level = np.sqrt(np.square(waveform.reshape(-1, 640)).mean(1))
    level /= max(level.max(), 1e-6)
    axes = np.random.default_rng(0).normal(size=(1, 64))
    noise = np.random.default_rng(len(frames)).normal(size=(len(frames), 64))
    maps = np.zeros((len(frames), 64, 64), np.uint8)
    maps[:, 8:60, 10:54] = 1  # skin
    maps[:, 24:34, 28:36] = 2  # nose
    for face, opening in zip(maps, (8 * level).round().astype(int)):
        face[42:44, 24:40] = 3  # upper lip
        face[44:44 + opening, 24:40] = 5  # mouth
        face[44 + opening:46 + opening, 24:40] = 4  # lower lip
    return {"3dmm": (level[:, None] * axes + 0.1 * noise).astype(np.float32), "parsing": maps}
"""


def unisync(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    """Store with coefficients and parsing maps."""
    root = tmp_path_factory.mktemp("features")
    (root / "my_features.py").write_text(HOOK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.path", [*sys.path])  # to which the command adds the working directory
        patch.chdir(root)
        unisync("prepare", folder, "--out", root / "store", "--features", "my_features:features")
    return root / "store"


def train(store, out, visual, *overrides):
    settings = (
        "recipe.clips=6",
        "recipe.segments=1",
        "optimiser.ema=0.9",
        "data.workers=1",
        "run.device=cpu",
        *overrides,
    )
    return [str(part) for part in ("train", "--data", store, "--out", out, "--visual", visual, *settings)]


@pytest.mark.parametrize(("visual", "width", "steps", "right"), [("3dmm", 64, 24, 5), ("parsing", 6, 20, 3)])
def test_an_expert_learns_from_stored_features(store, tmp_path, visual, width, steps, right):
    unisync(*train(store, tmp_path / "run", visual, f"recipe.steps={steps}"))
    expert = load_expert(tmp_path / "run" / "last")
    assert expert.config.visual_features == width
    if visual == "3dmm":
        assert expert.visual_input.deviation.max() < 1  # that of the training clips, not the default
    unisync("eval", "--model", tmp_path / "run" / "last", "--data", store, "--json", tmp_path / "eval.json")
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["clips"] == 6
    assert report["pairs"]["auc"] > 0.6
    unisync("score", store, "--model", tmp_path / "run" / "last", "--json", tmp_path / "score.json")
    videos = json.loads((tmp_path / "score.json").read_text())["videos"]
    clips = [f"{store}/drawn/s{speaker}/{number}_000.mp4" for speaker in range(3) for number in range(2)]
    assert [video["video"] for video in videos] == clips
    assert sum(video["tracks"][0]["offset_frames"] == 0 for video in videos) >= right


def test_features_that_do_not_fit_are_refused_before_any_work(store, folder, tmp_path):
    cases = [
        (store, "expert.visual_features=50", "expected 50 stored coefficients (expert.visual_features), got 64"),
        (folder, "expert.visual_features=64", "prepare --features"),
    ]
    for data, override, message in cases:
        refused = CliRunner().invoke(app, train(data, tmp_path / "run", "3dmm", override))
        assert refused.exit_code == 1
        assert message in str(refused.exception)
        assert not (tmp_path / "run").exists()
