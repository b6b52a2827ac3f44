"""`benchmarks/pairs.py` on a few short clips, with small random experts."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert, save_pretrained
from unisync_loss.data import list_clips
from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.evaluation import embed_clips
from unisync_loss.evaluation.report import evaluate_expert
from unisync_loss.functional import sync_probability

pytest.importorskip("av")
pytest.importorskip("mediapipe")
sys.path.insert(0, str(ROOT / "benchmarks"))
import pairs
import tower_embeddings

from unisync_loss.video.clip import read_clip
from unisync_loss.video.encoding import write_clip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two people with one clip each, and one clip without a face."""
    root = tmp_path_factory.mktemp("data") / "few"
    whole = read_clip(DEFAULT_CLIP, max_frames=60)
    for number, start in enumerate((0, 30)):
        path = root / "drawn" / f"s{number}" / "0.mp4"
        path.parent.mkdir(parents=True)
        write_clip(path, whole.frames[start : start + 30], whole.waveform[640 * start : 640 * (start + 30)])
    path = root / "drawn" / "nobody" / "0.mp4"
    path.parent.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * 640).astype(np.float32)
    write_clip(path, np.full((12, 96, 96, 3), 90, np.uint8), noise)
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random experts: `rgb` and `3dmm` share their audio tower, `other` shares the visual tower of `3dmm`."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    rgb, coefficients, other = (
        UniSyncExpert(UniSyncConfig(embedding=16, threshold=threshold, **visual)).eval()
        for threshold, visual in (
            (0.4, {}),
            (0.6, {"visual": "3dmm", "visual_features": 40}),
            (0.1, {"visual": "3dmm", "visual_features": 40}),
        )
    )
    coefficients.audio_tower.load_state_dict(rgb.audio_tower.state_dict())
    other.visual_tower.load_state_dict(coefficients.visual_tower.state_dict())
    other.visual_input.load_state_dict(coefficients.visual_input.state_dict())
    for name, expert in (("rgb", rgb), ("3dmm", coefficients), ("other", other)):
        save_pretrained(expert, root / name)
    return root


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """Cache of the tests that do not count what is embedded."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def measure(data, models, shared_cache, tmp_path, monkeypatch):
    """Run the program, by default without the costs; returns the results."""
    monkeypatch.chdir(models)

    def run(*arguments, model=("rgb", "3dmm", "other"), cache=shared_cache, cost=False):
        given = ["--data", data, "--json", tmp_path / "out" / "pairs.json", "--cache", cache, "--rounds", int(cost)]
        monkeypatch.setattr(sys, "argv", [str(part) for part in ("pairs", *given, *arguments, "--model", *model)])
        pairs.main()
        return json.loads((tmp_path / "out" / "pairs.json").read_text())

    return run


@pytest.fixture
def work(monkeypatch):
    """Names of the steps that were computed, in order."""
    done = []
    for name in ("load_clip", "face_mesh", "embed_audio", "embed_visual"):
        original = getattr(tower_embeddings, name)

        def counted(*arguments, name=name, original=original, **options):
            done.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(tower_embeddings, name, counted)
    return done


def test_results(measure, models, data, capsys):
    results = measure("--label", "mine")
    assert list(results) == ["rgb", "3dmm", "other"]
    assert "skipped drawn/nobody/0.mp4" in capsys.readouterr().err
    for name, row in results.items():
        expert = load_expert(models / name)
        assert (row["data"], row["clips"], row["speakers"]) == ("mine", 2, 2)
        assert row["pairs"]["threshold"] == expert.config.threshold
        expected = evaluate_expert(expert, name, data)
        if name != "rgb":  # which needs no mesh in `unisync eval`, and so takes the third clip, too
            assert row["pairs"]["n"] == expected["pairs"]["n"]
            assert row["pairs"]["auc"] == pytest.approx(expected["pairs"]["auc"], abs=0.01)


def test_costs(measure, models):
    results = measure("--average", "3dmm+other", model=["3dmm", "other"], cost=True)
    cost = results["3dmm"]["cost"]
    assert cost["parameters"] == sum(parameter.numel() for parameter in load_expert(models / "3dmm").parameters())
    assert cost["encoder_parameters"] == cost["encoder_multiply_adds_a_second"] == 0
    assert cost["multiply_adds_alone"] > cost["multiply_adds_in_a_second"] > 0
    assert "cost" not in results["3dmm+other"]


def test_the_encoder_of_an_expert_is_counted(tiny_whisper):
    from transformers import WhisperModel

    config = {"audio_features": 32, "audio_model": str(tiny_whisper), "visual": "landmarks", "embedding": 8}
    cost = pairs.encoder_cost(UniSyncExpert(UniSyncConfig(audio="whisper", **config)).eval())
    encoder = WhisperModel.from_pretrained(tiny_whisper).encoder
    names = {name: value.numel() for name, value in encoder.named_parameters() if "embed_positions" not in name}
    assert cost["encoder_parameters"] == sum(names.values())
    assert cost["encoder_multiply_adds_a_second"] > 0


def test_the_label_is_the_name_of_the_folder(measure):
    assert {row["data"] for row in measure(model=["other"]).values()} == {"few"}


def test_a_tower_embeds_a_clip_once(measure, work, tmp_path):
    results = measure(cache=tmp_path / "cache")
    assert {name: work.count(name) for name in set(work)} == {
        "load_clip": 3,
        "face_mesh": 3,
        "embed_audio": 2 * 2,
        "embed_visual": 2 * 2,
    }
    work.clear()
    assert measure(cache=tmp_path / "cache") == results
    assert work == []


def test_an_interrupted_run_continues(measure, work, tmp_path, monkeypatch):
    expected = measure()
    write, written = tower_embeddings.save_file, []

    def failing(tensors, path, *rest):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        write(tensors, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(tower_embeddings, "save_file", failing)
        with pytest.raises(KeyboardInterrupt):
            measure(cache=tmp_path / "cache")
    work.clear()
    assert measure(cache=tmp_path / "cache") == expected
    assert 0 < work.count("embed_audio") + work.count("embed_visual") < 8


def test_a_new_audio_tower_needs_no_face_mesh(measure, models, work, tmp_path):
    before = measure(model=["rgb"])["rgb"]
    changed = load_expert(models / "rgb")
    next(changed.audio_tower.parameters()).data.mul_(-1)
    save_pretrained(changed, tmp_path / "changed")
    work.clear()
    after = measure(model=[tmp_path / "changed"])[str(tmp_path / "changed")]
    assert work == ["load_clip", "embed_audio"] * 2
    assert after["pairs"]["auc"] != before["pairs"]["auc"]


def test_config_and_weights_identify_a_tower(models):
    rgb, coefficients, other = (load_expert(models / name) for name in ("rgb", "3dmm", "other"))
    tower = tower_embeddings.tower_of
    assert tower(rgb, "audio") == tower(coefficients, "audio") != tower(other, "audio")
    assert tower(rgb, "visual") != tower(coefficients, "visual") == tower(other, "visual")
    padded = UniSyncExpert(UniSyncConfig(embedding=16, mel_padding="constant")).eval()
    padded.load_state_dict(rgb.state_dict())
    assert tower(padded, "visual") == tower(rgb, "visual")
    assert tower(padded, "audio") != tower(rgb, "audio")


def test_average(measure, models, data):
    results = measure("--average", "rgb+3dmm")
    assert list(results)[-1] == "rgb+3dmm"
    mixed = results["rgb+3dmm"]
    assert mixed["pairs"]["threshold"] == pytest.approx(0.5)
    entries = [entry for entry in list_clips(data) if "nobody" not in entry.name]
    right = []
    for name in ("rgb", "3dmm"):
        embedded = list(embed_clips(load_expert(models / name), entries))
        right.append(np.concatenate([sync_probability(clip.audio, clip.visual).numpy() for clip in embedded]))
    accepted = (np.mean(right, 0) > 0.5).mean()
    assert 2 * mixed["pairs"]["accuracy"] == pytest.approx(accepted + mixed["detection"]["accuracy"], abs=0.03)


def test_average_of_an_unknown_model(measure, capsys):
    with pytest.raises(SystemExit):
        measure("--average", "rgb+nothing")
    assert "expected names of --model joined by +, got nothing" in capsys.readouterr().err


def test_settings(measure, tmp_path, models, data):
    results = measure("--average", "rgb+3dmm", "--settings", tmp_path / "settings.json")
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings.keys() == results.keys()
    assert all(row["calibration"] is None for row in results.values())
    shutil.copytree(models / "rgb", tmp_path / "rgb")
    config = json.loads((tmp_path / "rgb" / "config.json").read_text())
    accuracy = []
    for threshold in (settings["rgb"]["threshold"], 0.0, 0.3, 0.6, 0.9):
        (tmp_path / "rgb" / "config.json").write_text(json.dumps({**config, "threshold": threshold}))
        accuracy.append(measure(model=[tmp_path / "rgb"])[str(tmp_path / "rgb")]["pairs"]["accuracy"])
    assert accuracy[0] >= max(accuracy)
    assert accuracy[0] > 0.5
    calibrated = {**config, "temperature": 0.2, "midpoint": 0.4}
    (tmp_path / "rgb" / "config.json").write_text(json.dumps(calibrated))
    row = measure(model=[tmp_path / "rgb"])[str(tmp_path / "rgb")]["calibration"]
    assert (row["temperature"], row["midpoint"]) == (0.2, 0.4)
