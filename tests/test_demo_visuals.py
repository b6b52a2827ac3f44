"""The demonstration on landmarks, coefficients and parsing maps: a drawn face, random experts, two steps."""

import json

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss, save_pretrained
from unisync_loss.demo import run_demo
from unisync_loss.demo_generator import (
    MOUTH_COLUMNS,
    MOUTH_ROWS,
    MotionGenerator,
    batch_losses,
    draw_batch,
    faces_of,
    new_generator,
)
from unisync_loss.demo_judge import load_judge
from unisync_loss.demo_material import SIZE, heard_in, heard_whole, load_material, mel_around, to_colours
from unisync_loss.face_model import expression_of_mesh, landmarks_of_expression
from unisync_loss.media import read_clip, write_clip
from unisync_loss.representations.landmark_tables import MEAN_FACE_68
from unisync_loss.synthetic import synthesize_clip

FEATURES = {"landmarks": 204, "3dmm": 40, "parsing": 6}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "face.mp4"
    drawn = synthesize_clip(4, seconds=3.52, size=128)
    write_clip(path, drawn.frames, drawn.waveform)
    return path


def expert_on(visual, **changes):
    torch.manual_seed(0)
    values = {"visual": visual, "visual_features": FEATURES[visual], "embedding": 8, **changes}
    return UniSyncExpert(UniSyncConfig(**values)).eval()


@pytest.fixture(scope="module", params=list(FEATURES))
def made(request, clip):
    """An expert and what it sees of the clip."""
    expert = expert_on(request.param)
    return expert, load_material(clip, expert)


def test_the_whole_of_it(made, clip, tmp_path, monkeypatch):
    expert, material = made
    visual = material.visual
    monkeypatch.setattr("unisync_loss.demo.load_material", lambda video, judge: material)
    if visual != "landmarks":  # the pictures of one report are enough
        small = np.zeros((len(material.held), 16, 16, 3), np.uint8)
        monkeypatch.setattr("unisync_loss.report.side_by_side", lambda result, videos, sound: small)
        monkeypatch.setattr("unisync_loss.report.curves_picture", lambda result: b"")
        monkeypatch.setattr("unisync_loss.report.film_picture", lambda videos, sound: b"")
    run_demo(clip, tmp_path, expert, steps=2, progress=lambda line: None)
    values = json.loads((tmp_path / "demo.json").read_text())
    assert values["visual"] == visual
    assert values["expert"] == f"mel-{visual} (small)"
    runs = values["runs"]
    assert runs["reconstruction"]["reconstruction"][0] == runs["unisync"]["reconstruction"][0]
    assert runs["reconstruction"]["l1"] != runs["unisync"]["l1"]  # the sync term of the second step took part
    assert len(read_clip(tmp_path / "demo.mp4").frames) == values["held"][1] - values["held"][0]
    assert ("face at rest" in (tmp_path / "report.html").read_text()) == (visual != "parsing")


def test_what_is_made_begins_at_rest(made):
    _, material = made
    generator = new_generator(material)
    frames = torch.arange(4)
    drawn = generator(mel_around(material.mel, frames), faces_of(material, frames))
    assert drawn.shape == material.frames[:4].shape
    if isinstance(generator, MotionGenerator):
        assert torch.equal(drawn, material.references[:4])
        assert torch.allclose(drawn[0], material.frames[: material.train.stop].mean(0), atol=1e-6)
    else:
        half = SIZE // 2
        assert torch.equal(drawn[:, :, :half], material.frames[:4, :, :half])
        assert torch.allclose(drawn.sum(1), torch.ones(4, SIZE, SIZE), atol=1e-5)
        assert (drawn[:, :, half:] - material.references[:4, :, half:]).abs().max() < 0.1
        # the lower half of the target plays no part
        other = material._replace(frames=torch.cat([material.frames[:, :, :half], 0 * material.frames[:, :, half:]], 2))
        assert torch.equal(faces_of(other, frames), faces_of(material, frames))


def test_weights_mean_the_same(made):
    """A face at rest costs about what it costs in RGB: some hundredths."""
    _, material = made
    batch = draw_batch(material.train, torch.Generator().manual_seed(0))
    (loss,) = batch_losses(new_generator(material), material, batch, None)
    assert 0.003 < loss.item() < 0.1


def test_the_sync_loss_reaches_the_generator(made):
    expert, material = made
    generator = new_generator(material)
    batch = draw_batch(material.train, torch.Generator().manual_seed(0))
    _, sync = batch_losses(generator, material, batch, UniSyncLoss(expert))
    sync.backward()
    assert generator.out.weight.grad.abs().sum() > 0


def test_windows_hear_what_the_whole_hears(made, tmp_path):
    expert, material = made
    starts = torch.tensor([0, 1, 7, 40])
    whole = expert.encode_audio(heard_whole(material), len(material.frames))[0]
    assert torch.allclose(expert.encode_audio(heard_in(material, starts), 5)[:, 0], whole[starts], atol=1e-5)
    if material.visual == "3dmm":  # one of them by HuBERT, too
        from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

        small = HubertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, conv_dim=(8,) * 7)
        HubertModel(small).save_pretrained(tmp_path)
        Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
        other = expert_on("3dmm", audio="hubert", audio_features=32, hubert_model=str(tmp_path))
        with torch.no_grad():
            heard = other.audio_input(torch.from_numpy(material.waveform)[None])[0]
            material = material._replace(audio="hubert", heard=heard)
            whole = other.encode_audio(torch.from_numpy(material.waveform)[None], len(material.frames))[0]
            own = other.encode_audio(heard_in(material, starts), 5)[:, 0]
        assert torch.allclose(own, whole[starts], atol=1e-4)


class TestPictures:
    def test_lips_are_where_motion_is_measured(self):
        face = torch.tensor(MEAN_FACE_68)
        opened = face.clone()
        opened[[55, 56, 57, 58, 59, 65, 66, 67], 1] += 0.1
        shut, wide = to_colours("landmarks", torch.stack([face, opened]))
        changed = (shut - wide).abs().amax(0) > 0.1
        assert changed[MOUTH_ROWS, MOUTH_COLUMNS].sum() > 40
        assert changed.sum() == changed[MOUTH_ROWS, MOUTH_COLUMNS].sum()
        assert 0 <= shut.min() < shut.max() <= 1

    def test_a_mouth_alone(self):
        mouth = torch.tensor(MEAN_FACE_68)[None, 48:]
        whole = to_colours("landmarks", torch.tensor(MEAN_FACE_68)[None])
        alone = to_colours("landmarks", mouth)
        assert torch.allclose(alone[:, :, 56:70, 40:56], whole[:, :, 56:70, 40:56], atol=1e-4)
        assert alone[:, :, :40].min() > 0.999

    def test_labels_have_their_colours(self):
        maps = torch.eye(6)[:, :, None, None].expand(6, 6, SIZE, SIZE)
        pictures = to_colours("parsing", maps)
        assert len({tuple(picture[:, 0, 0].tolist()) for picture in pictures}) == 6

    def test_coefficients_are_the_face_they_come_from(self):
        coefficients = torch.randn(6, 40, dtype=torch.float64)
        again = expression_of_mesh(landmarks_of_expression(coefficients))
        assert torch.corrcoef(torch.stack([coefficients.ravel(), again.ravel()]))[0, 1] > 0.99
        assert to_colours("3dmm", coefficients.float()).shape == (6, 3, SIZE, SIZE)


class TestJudge:
    def test_a_folder(self, tmp_path):
        save_pretrained(expert_on("landmarks"), tmp_path)
        assert load_judge("landmarks", str(tmp_path)).config.visual == "landmarks"
        with pytest.raises(ValueError, match=r"--visual parsing: expected an expert of it, got mel-landmarks"):
            load_judge("parsing", str(tmp_path))

    def test_what_is_missing_is_named(self, monkeypatch):
        monkeypatch.setattr("unisync_loss.demo_judge.list_pretrained", lambda: {"mel-rgb": None})
        with pytest.raises(ValueError, match=r"needs a mel-landmarks expert, and none is released.*--model"):
            load_judge("landmarks", None)

    def test_unknown(self):
        with pytest.raises(ValueError, match="expected rgb, parsing, landmarks, 3dmm, got 'face'"):
            load_judge("face", None)

    def test_another_face_model(self, clip, tmp_path):
        expert = expert_on("3dmm", visual_features=64)
        with pytest.raises(ValueError, match="expected the 40 coefficients that are made from video"):
            run_demo(clip, tmp_path / "out", expert, steps=1)
        assert not (tmp_path / "out").exists()
