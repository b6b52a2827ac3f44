"""Examples in the documents do what they say."""

import doctest
import importlib
import re

import numpy as np
import pytest
import torch
import typer
from helpers.paths import ROOT
from helpers.source import ADAPTERS, MODULES, documents

import unisync_loss
from unisync_loss.cli import app
from unisync_loss.evaluation.video_scores import TrackScores, VideoScores
from unisync_loss.evaluation.video_summary import summarise_video
from unisync_loss.lse import results as lse_results

EXAMPLES = [path for path in [*MODULES, *ADAPTERS] if ">>> " in path.read_text(encoding="utf-8")]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "unisync_loss" else ("unisync_loss", *parts))


@pytest.mark.parametrize("name", [module_of(path) for path in EXAMPLES])
def test_docstrings(name):
    module = importlib.import_module(name)
    names = {"torch": torch} | {name: getattr(unisync_loss, name) for name in unisync_loss.__all__}
    failed, tried = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


def test_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    video = torch.rand(1, 10, 3, 96, 96, requires_grad=True)
    names = {"video": video, "waveform": torch.randn(1, 6400) / 10}
    exec(code, names)
    assert video.grad.abs().sum() > 0
    assert names["terms"].probability.shape == (1, 6)


def test_the_reward_runs():
    text = (ROOT / "docs" / "teacher.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## As a reward\n.*?```python\n(.*?)```", text, re.DOTALL)
    samples = torch.rand(3, 8, 3, 64, 64, requires_grad=True)
    names = {"samples": samples, "waveforms": torch.randn(1, 8 * 640).expand(3, -1) / 10}
    exec(code, names)
    assert names["rewards"].shape == (3,)
    assert not names["rewards"].requires_grad
    assert names["chosen"].shape == names["rejected"].shape == samples.shape[1:]


@pytest.fixture(scope="module")
def measuring():
    """The programs of docs/measuring.md: metric objects in a loop, and a peer through the protocols."""
    text = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    loop, peer = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return {"loop": loop, "peer": peer}


@pytest.fixture
def beside_weights(syncnet_layers, tmp_path, monkeypatch):
    torch.save(syncnet_layers.state_dict(), tmp_path / "syncnet_v2.model")
    monkeypatch.chdir(tmp_path)


def test_the_validation_loop_runs(measuring, beside_weights, capsys):
    exec(measuring["loop"], {"loader": 2 * [(torch.rand(1, 7, 3, 96, 96), torch.randn(1, 7 * 640) / 10)]})
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("SyncProbability", "LSED", "LSEC"))
    assert "nan" not in printed


def test_a_peer_runs_through_the_protocols(measuring, beside_weights, tmp_path, capsys):
    pytest.importorskip("av")
    from unisync_loss.video.encoding import write_clip

    draw = np.random.default_rng(0)
    for place in ("VAL/a/one", "TEST/a/one", "TEST/a/two"):
        (tmp_path / place).mkdir(parents=True)
        pictures = draw.integers(0, 256, (13, 64, 64, 3), dtype=np.uint8)
        write_clip(tmp_path / place / "0.mp4", pictures, (draw.normal(size=13 * 640) / 10).astype(np.float32))
    exec(measuring["peer"], {})
    printed = capsys.readouterr().out
    assert "syncnet: 2 clips, 2 speakers, 32 pairs" in printed  # 8 windows a clip, each once right and once wrong
    assert "detection" in printed
    assert "retrieval@11" in printed


def test_the_features_of_ones_own_model_run(tmp_path, monkeypatch):
    """The provider of docs/data.md, with a model that exists."""

    class FaceModel(torch.nn.Module):
        def forward(self, crops):
            return crops.mean((2, 3)).repeat(1, 22)[:, :64]

    monkeypatch.chdir(tmp_path)
    sizes = ({0: torch.export.Dim("n")},)
    torch.export.save(
        torch.export.export(FaceModel(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=sizes), "face_model.pt2"
    )
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    frames = np.random.default_rng(0).integers(0, 256, (40, 192, 192, 3), dtype=np.uint8)
    features = names["features"](frames, np.zeros(40 * 640, np.float32))
    assert list(features) == ["3dmm"]
    assert (features["3dmm"].shape, features["3dmm"].dtype) == ((40, 64), np.float32)
    assert np.allclose(features["3dmm"][:, :3], frames.mean((1, 2)) / 255, atol=1e-3)


def test_every_figure_of_the_reports_is_explained():
    text = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    track = TrackScores(0, np.full((60, 31), 0.5, np.float32), np.full(60, 0.2, np.float32), [])
    judged = summarise_video("a.mp4", VideoScores([track], [], 2.6, []), 0.5)
    figures = {*judged, *judged["tracks"][0], *lse_results.COLUMNS, "speaker_track", "sync_matrix", "n_tracks", "means"}
    plain = {"video", "variant"}  # the file and the option
    assert [name for name in sorted(figures - plain) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            file = path.parent / target if target else path
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(path):
    """Names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_have_their_options(path):
    """Every `unisync COMMAND … --option` of a document exists; the changelog also names options of the past."""
    if path.name == "CHANGELOG.md":
        return
    commands = typer.main.get_command(app).commands
    text = re.sub(r"\\?\n(?=--)", " ", path.read_text(encoding="utf-8"))
    for name, arguments in re.findall(r"\bunisync (\w[\w-]*)([^`#;\n]*)", text):
        known = (
            {option for parameter in commands[name].params for option in parameter.opts} if name in commands else set()
        )
        wrong = set(re.findall(r"--[a-z][a-z-]+", arguments)) - known - {"--help"}
        assert not wrong, f"unisync {name} has no {', '.join(sorted(wrong))}"
