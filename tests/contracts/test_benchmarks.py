"""The peer that our timings are compared with is the real architecture."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT, SHARED
from torch.nn import functional as F

sys.path.insert(0, str(ROOT / "benchmarks"))
from lse_speed import original_distances
from syncnet_color import SyncNetColor, wav2lip_sync_loss


def test_size():
    # peers' own count: 13.032 M + 3.403 M
    assert sum(parameter.numel() for parameter in SyncNetColor().parameters()) == pytest.approx(16.435e6, abs=1e3)


def test_loss():
    frames = torch.rand(2, 3, 5, 96, 96, requires_grad=True)
    wav2lip_sync_loss(SyncNetColor().eval(), torch.rand(2, 1, 80, 16), frames).backward()
    assert frames.grad[..., :48, :].abs().max() == 0
    assert frames.grad[..., 48:, :].abs().sum() > 0


def test_equals_the_original(golden):
    spec = importlib.util.spec_from_file_location("seeded_weights", SHARED / "golden" / "seeded_weights.py")
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    net = SyncNetColor().eval()
    original = {
        key.replace("face.", "face_encoder.").replace("audio.", "audio_encoder.").replace("layers", "conv_block"): key
        for key in net.state_dict()
    }
    filled = seeded.fill({name: net.state_dict()[key] for name, key in original.items()})
    net.load_state_dict({original[name]: value for name, value in filled.items()})
    mel = torch.from_numpy(golden["mel_reflect"][None, None, :, :16])
    frames = torch.from_numpy(golden["frames_bgr"][:5].astype(np.float32))
    frames = F.interpolate(frames.movedim(-1, 1), (96, 96), mode="bilinear", align_corners=False).round() / 255
    with torch.no_grad():
        audio, face = net(mel, frames[:, :, 48:].reshape(1, 15, 48, 96))
    assert np.abs(audio.numpy() - golden["wav2lip_audio_embedding"]).max() < 1e-4
    # the original's frames were resized by another library, to the same pixels but for rounding
    assert F.cosine_similarity(face, torch.from_numpy(golden["wav2lip_face_embedding"])).item() > 0.999


def test_the_steps_of_lse_equal_the_original(golden, golden_syncnet_layers):
    # the first 30 frames: two batches of windows, and rows 10 to 14 reach beyond both ends
    frames = torch.from_numpy(golden["frames_bgr"][:30]).flip(-1).movedim(-1, 1)
    with torch.no_grad():
        distances = original_distances(golden_syncnet_layers, frames, golden["wav"][: 30 * 640]).numpy()
    assert distances.shape == (25, 31)
    row, column = np.indices(distances.shape)
    beyond = row + column - 15 >= len(distances)  # of the shorter clip; the distance to zeros, as before its start
    expected = np.where(beyond, golden["distances"][:25, :1], golden["distances"][:25])
    known = ~beyond | (row < 15)
    assert np.abs(distances / expected - 1)[known].max() < 1e-5
