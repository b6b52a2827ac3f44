"""The bundled weights on the bundled clip: a drawn speaker who was in no training data."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from torch.nn import functional as F

import unisync_loss
from unisync_loss import UniSyncLoss, list_pretrained, load_expert
from unisync_loss.functional import offset_matrix
from unisync_loss.models.released import read_table
from unisync_loss.video.clip import read_clip
from unisync_loss.video.extraction import visual_of_mesh
from unisync_loss.video.face_mesh import face_mesh, fill_gaps

PACKAGE = Path(unisync_loss.__file__).parent
WEIGHTS = PACKAGE / "weights"
NAMES = list(list_pretrained())


@pytest.fixture(scope="module")
def clip():
    return read_clip(PACKAGE / "assets" / "demo.mp4", max_frames=125)


@pytest.fixture(scope="module")
def waveform(clip):
    return torch.from_numpy(clip.waveform)[None]


@pytest.fixture(scope="module")
def faces(clip):
    """The clip's face in every representation."""
    mesh = fill_gaps(face_mesh(clip.frames, depth=True))
    experts = {name: list_pretrained()[name].config for name in NAMES}
    videos = {c.visual: visual_of_mesh(c, mesh, clip.frames.shape[1:3]) for c in experts.values() if c.visual != "rgb"}
    return {**videos, "rgb": rearrange(torch.from_numpy(clip.frames), "t h w c -> 1 t c h w").float() / 255}


@pytest.fixture(scope="module", params=NAMES)
def expert(request):
    return load_expert(request.param)


@pytest.fixture(scope="module")
def video(expert, faces):
    return faces[expert.config.visual]


def offset(expert, video, waveform):
    with torch.no_grad():
        table = offset_matrix(expert.encode_audio(waveform, video.shape[1]), expert.encode_visual(video))
    return table[0].nanmean(0).argmax().item() - 15


def test_what_is_bundled():
    released = list_pretrained()
    assert {"whisper-rgb", "whisper-3dmm"} <= released.keys(), "the commands use them by default"
    assert all(info.config.name == name.removesuffix("-robust") for name, info in released.items())
    for info in released.values():
        assert {path.name for path in info.path.iterdir()} == {"config.json", "README.md"}, info.name
    folders = {path.name for path in WEIGHTS.iterdir() if path.is_dir()}
    encoders = {path.parent.name for path in WEIGHTS.glob("*/model.safetensors")}
    assert folders == {"towers"} | encoders | released.keys()
    assert {info.config.audio_model for info in released.values() if info.config.audio != "mel"} <= encoders


def test_every_tower_is_pinned_used_and_stored_once():
    used = {tower.name: tower for info in list_pretrained().values() for tower in info.towers.values()}
    assert {path.name for path in (WEIGHTS / "towers").iterdir()} == {f"{name}.safetensors" for name in used}
    assert read_table(WEIGHTS)["towers"].keys() == used.keys()
    for tower in used.values():
        content = tower.path.read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (tower.size, tower.sha256), tower.name
    assert len({tower.sha256 for tower in used.values()}) == len(used)


def test_parameters_are_counted(expert):
    counted = sum(parameter.numel() for parameter in expert.parameters())
    assert counted == list_pretrained()[expert.config.name].parameters


def test_the_hubert_has_the_names_that_all_versions_read():
    with safe_open(WEIGHTS / "hubert-small" / "model.safetensors", framework="pt") as file:
        names = [name.rpartition(".")[2] for name in file.keys() if "pos_conv_embed" in name]
    assert sorted(names) == ["bias", "weight_g", "weight_v"]


def test_the_hubert_is_small():
    weights = (WEIGHTS / "hubert-small" / "model.safetensors").stat().st_size
    assert weights <= 12e6


def test_works_with_no_network_and_an_empty_cache(tmp_path):
    """A raw waveform and a face, in a process of its own: nothing may be fetched."""
    script = (
        "import torch; from unisync_loss import UniSyncLoss; video = torch.rand(1, 6, 3, 96, 96, requires_grad=True);"
        "UniSyncLoss.from_pretrained('hubert-rgb')(video, torch.randn(1, 3840) / 10).backward();"
        "print(video.grad.abs().sum().item() > 0)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert not list(tmp_path.iterdir())


def test_in_sync_beats_shifted(expert, video, waveform):
    with torch.no_grad():
        p = expert(video, waveform).mean()
        for frames in (-5, 5):
            assert expert(video, waveform.roll(640 * frames, 1)).mean() < p - 0.08
    assert p > expert.config.threshold


@pytest.mark.parametrize("shift", [-5, 0, 5])
def test_shifted_audio_moves_the_offset(expert, video, waveform, shift):
    assert abs(offset(expert, video, waveform.roll(640 * shift, 1)) - shift) <= 1


def test_gradient_pulls_the_loss_down(expert, video, waveform):
    face = video[:, 20:30].float().clone().requires_grad_()
    sound = waveform.roll(640 * 9, 1)[:, 20 * 640 : 30 * 640]
    loss = UniSyncLoss(expert)
    before = loss(face, sound)
    before.backward()
    assert np.isfinite(face.grad.numpy()).all()
    step = 0.002 * face.detach().std() * face.grad.sign()
    assert loss(face.detach() - step, sound) < before


@pytest.mark.parametrize(
    "crop", [(0, 192, 0, 192, 96), (19, 173, 19, 173, 154), (0, 173, 10, 183, 256), (40, 154, 52, 140, 96)]
)
def test_other_crops_and_sizes(faces, waveform, crop):
    top, bottom, left, right, size = crop
    video = faces["rgb"][:, :75, :, top:bottom, left:right]
    video = F.interpolate(video[0], (size, size), mode="bilinear", antialias=True)[None]
    assert abs(offset(load_expert("mel-rgb"), video, waveform[:, : 75 * 640])) <= 1


@pytest.mark.parametrize("name", ["mel-rgb", "hubert-rgb"])
def test_mirrored_and_darker(faces, waveform, name):
    video, sound, expert = faces["rgb"][:, :75], waveform[:, : 75 * 640], load_expert(name)
    with torch.no_grad():
        p = expert(video, sound).mean()
        assert abs(expert(video.flip(-1), sound).mean() - p) < 0.1
        assert abs(expert(0.7 * video, sound).mean() - p) < 0.1
