"""Exported graphs give what the expert gives, at other sizes than those they were traced with."""

import re
import runpy
import sys

import pytest
import torch
from helpers.paths import ROOT

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert
from unisync_loss.functional import sync_probability
from unisync_loss.models.export import export_expert

HAS_EXPORTER = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 5)
needs_exporter = pytest.mark.skipif(not HAS_EXPORTER, reason="the exporter needs PyTorch 2.5")


def largest_difference(expert, run, video, features):
    """Of the probabilities by the graphs and by the expert, (B, W)."""
    audio, visual = run("audio", features), run("visual", video)
    with torch.no_grad():
        audio_embedding = expert.encode_prepared_audio(features, video.shape[1])
        expected = sync_probability(audio_embedding, expert.encode_visual(video))
    assert visual.shape == audio_embedding.shape
    return (sync_probability(audio[:, : visual.shape[1]], visual) - expected).abs().max().item()


@needs_exporter
def test_onnx(tmp_path, monkeypatch, capsys):
    """The released expert on another batch, length and size of images, and from the waveform on."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    expert, lines = load_expert("mel-rgb"), []
    files = export_expert(expert, tmp_path, log=lines.append)
    assert [path.name for path in files] == ["visual.onnx", "audio.onnx", "features.onnx"]
    assert len(lines) == 3

    def run(name, value):
        session = runtime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        assert entry.name == {"visual": "video", "audio": "features", "features": "waveform"}[name]
        return torch.from_numpy(session.run(None, {entry.name: value.numpy()})[0])

    generator = torch.Generator().manual_seed(0)
    video = torch.nn.functional.interpolate(torch.rand(3 * 14, 3, 12, 9, generator=generator), (120, 90))
    video = video.unflatten(0, (3, 14))
    waveform = torch.randn(3, 14 * 640, generator=generator) / 10
    with torch.no_grad():
        features = expert.prepare_audio(waveform)
    assert largest_difference(expert, run, video, features) < 1e-5
    for length in range(32, features.shape[1]):  # windows begin at every third step, or the fourth
        windows = sum(expert.config.first_step(frame) + 16 <= length for frame in range(20))
        assert run("audio", features[:, :length]).shape == (3, windows, 512)
    assert (run("features", waveform) - features).abs().max() < 1e-2  # of 8; decibels of bands with hardly any energy
    assert largest_difference(expert, run, video, run("features", waveform)) < 1e-5
    example(tmp_path, monkeypatch, capsys)
    assert UniSyncConfig.from_json((tmp_path / "config.json").read_text()) == expert.config


def example(graphs, monkeypatch, capsys):
    """The example gives the score of the library for a file whose frames have the size that it takes."""
    pytest.importorskip("av")
    from unisync_loss.data import load_clip
    from unisync_loss.data.clips import ClipEntry
    from unisync_loss.demo.run import DEFAULT_CLIP

    monkeypatch.setattr(sys, "argv", ["score_with_onnx.py", str(graphs), str(DEFAULT_CLIP)])
    runpy.run_path(str(ROOT / "examples" / "score_with_onnx.py"), run_name="__main__")
    offset, probability = re.fullmatch(
        r"offset ([+-]\d+) frames, calibrated probability (0\.\d+)\n", capsys.readouterr().out
    ).groups()
    clip = load_clip(ClipEntry(DEFAULT_CLIP, "demo", "demo", "demo"))
    video = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[None].float() / 255
    expert = load_expert("mel-rgb")
    with torch.no_grad():
        expected = expert.calibrate(expert(video, torch.from_numpy(clip.waveform)[None]))
    assert int(offset) in (-1, 0, 1)
    assert float(probability) == pytest.approx(expected.mean().item(), abs=0.03)


@needs_exporter
@pytest.mark.parametrize("visual", ["landmarks", "3dmm"])
def test_pt2(tmp_path, visual):
    torch.manual_seed(0)
    expert = UniSyncExpert(UniSyncConfig(audio="hubert", visual=visual, audio_features=24, embedding=32)).eval()
    files = export_expert(expert, tmp_path, "pt2")
    assert [path.name for path in files] == ["visual.pt2", "audio.pt2"]

    def run(name, value):
        return torch.export.load(tmp_path / f"{name}.pt2").module()(value)

    video = torch.rand(4, 23, 68, 2) if visual == "landmarks" else torch.randn(4, 23, 64)
    features = torch.randn(4, 46, 24)
    for frames in (23, 14, 11):
        assert largest_difference(expert, run, video[:, :frames], features[:, : 2 * frames]) < 1e-6


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    expert = UniSyncExpert(UniSyncConfig(audio="mel", visual="landmarks", embedding=8))
    with pytest.raises(ValueError, match='format: expected "onnx" or "pt2", got \'tflite\''):
        export_expert(expert, tmp_path, "tflite")
    paper = UniSyncExpert(UniSyncConfig(audio="mel", visual="landmarks", architecture="paper", embedding=8))
    with pytest.raises(ValueError, match="expected an expert of the small architecture, got 'paper'"):
        export_expert(paper, tmp_path)
    if HAS_EXPORTER:
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(ImportError, match=r"pip install 'unisync_loss\[export\]'"):
            export_expert(expert, tmp_path / "out")
    assert not list(tmp_path.iterdir())
