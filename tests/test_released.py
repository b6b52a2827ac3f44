"""The bundled weights on the bundled clip: a drawn speaker who was in no training data."""

from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

import unisync_loss
from unisync_loss import UniSyncLoss, list_pretrained, load_expert
from unisync_loss.functional import offset_matrix
from unisync_loss.media import read_clip

PACKAGE = Path(unisync_loss.__file__).parent


@pytest.fixture(scope="module")
def clip():
    clip = read_clip(PACKAGE / "assets" / "demo.mp4", max_frames=125)
    return rearrange(torch.from_numpy(clip.frames), "t h w c -> 1 t c h w").float() / 255, torch.from_numpy(
        clip.waveform
    )[None]


@pytest.fixture(scope="module")
def expert():
    return load_expert("mel-rgb")


def offset(expert, video, waveform):
    with torch.no_grad():
        table = offset_matrix(expert.encode_audio(waveform, video.shape[1]), expert.encode_visual(video))
    return table[0].nanmean(0).argmax().item() - 15


def test_what_is_bundled():
    info = list_pretrained()["mel-rgb"]
    assert info.parameters <= 5e6
    assert info.size <= 35e6
    assert (info.path / "README.md").is_file()
    total = sum(path.stat().st_size for path in (PACKAGE / "weights").rglob("*") if path.is_file())
    assert total < 90e6


def test_in_sync_beats_shifted(expert, clip):
    video, waveform = clip
    with torch.no_grad():
        p = expert(video, waveform).mean()
        for frames in (-5, 5):
            assert expert(video, waveform.roll(640 * frames, 1)).mean() < p - 0.15
    assert p > expert.config.threshold


@pytest.mark.parametrize("shift", [-5, 0, 5])
def test_shifted_audio_moves_the_offset(expert, clip, shift):
    video, waveform = clip
    assert abs(offset(expert, video, waveform.roll(640 * shift, 1)) - shift) <= 1


@pytest.mark.parametrize(
    "crop", [(0, 192, 0, 192, 96), (19, 173, 19, 173, 154), (0, 173, 10, 183, 256), (40, 154, 52, 140, 96)]
)
def test_other_crops_and_sizes(expert, clip, crop):
    top, bottom, left, right, size = crop
    video = clip[0][:, :75, :, top:bottom, left:right]
    video = F.interpolate(video[0], (size, size), mode="bilinear", antialias=True)[None]
    assert abs(offset(expert, video, clip[1][:, : 75 * 640])) <= 1


def test_mirrored_and_darker(expert, clip):
    video, waveform = clip[0][:, :75], clip[1][:, : 75 * 640]
    with torch.no_grad():
        p = expert(video, waveform).mean()
        assert abs(expert(video.flip(-1), waveform).mean() - p) < 0.1
        assert abs(expert(0.7 * video, waveform).mean() - p) < 0.1


def test_gradient_pulls_the_loss_down(clip):
    video, waveform = clip[0][:, 20:30].clone(), clip[1].roll(640 * 9, 1)[:, 20 * 640 : 30 * 640]
    loss = UniSyncLoss.from_pretrained("mel-rgb")
    video.requires_grad_()
    before = loss(video, waveform)
    before.backward()
    with torch.no_grad():
        moved = (video - 0.01 * video.grad.sign()).clamp(0, 1)
    assert loss(moved, waveform) < before
