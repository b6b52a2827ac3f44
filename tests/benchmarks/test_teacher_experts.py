"""`benchmarks/teacher_experts.py`: our experts and SyncNet under one interface."""

import sys

import pytest
import torch
from helpers.paths import ROOT
from safetensors.torch import save_file
from torch.nn import functional as F

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained

sys.path.insert(0, str(ROOT / "benchmarks"))
from syncnet_color import SyncNetColor
from teacher_experts import ExpertTeacher, load_teacher

FRAMES = 9


@pytest.fixture
def waveform():
    return torch.randn(1, FRAMES * 640) / 10


def test_expert(expert, waveform):
    teacher = ExpertTeacher(expert)
    video = torch.rand(1, FRAMES, 3, 96, 96)
    audio = teacher.encode_audio(waveform, FRAMES)
    probability = teacher.probability(video, audio)
    assert torch.allclose(probability, expert(video, waveform), atol=1e-6)
    assert teacher.loss(video, audio).item() == pytest.approx(
        -probability.clamp_min(0.0067).log().mean().item(), abs=1e-4
    )


def test_the_key_depends_on_weights_and_settings(expert, tmp_path):
    save_pretrained(expert, tmp_path / "one")
    key = load_teacher(str(tmp_path / "one")).key
    assert load_teacher(str(tmp_path / "one")).key == key
    grey = UniSyncExpert(UniSyncConfig(embedding=16, colour=False)).eval()
    grey.load_state_dict(expert.state_dict())
    assert ExpertTeacher(grey).key != key
    next(grey.parameters()).data.mul_(2)
    assert len({key, ExpertTeacher(grey).key}) == 2


def test_other_representations_are_refused():
    with pytest.raises(ValueError, match="expected an expert on rgb, got one on landmarks"):
        ExpertTeacher(UniSyncExpert(UniSyncConfig(visual="landmarks", visual_features=40)))


def test_syncnet(waveform, tmp_path):
    net = SyncNetColor().eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors", {"threshold": "0.25"})
    teacher = load_teacher(str(tmp_path / "net.safetensors"))
    assert teacher.threshold == 0.25
    video = torch.rand(2, FRAMES, 3, 96, 96, requires_grad=True)
    audio = teacher.encode_audio(waveform, FRAMES)
    assert audio.shape == (1, FRAMES - 4, 80, 16)
    probability = teacher.probability(video, audio.expand(2, -1, -1, -1))
    face = video[1, 3:8, :, 48:].reshape(1, 15, 48, 96)  # the fourth window, frame after frame
    expected = F.cosine_similarity(*net(audio[:, 3, None], face)).item()
    assert probability.shape == (2, FRAMES - 4)
    assert probability[1, 3].item() == pytest.approx(expected, abs=1e-5)
    loss = teacher.loss(video, audio.expand(2, -1, -1, -1))
    assert loss.item() == pytest.approx(-probability.log().mean().item(), rel=1e-4)


def test_syncnet_without_threshold(tmp_path):
    save_file(SyncNetColor().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(KeyError, match="threshold"):
        load_teacher(str(tmp_path / "net.safetensors"))
