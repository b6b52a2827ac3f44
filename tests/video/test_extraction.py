from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.visuals import visual_of_frames

import unisync_loss
from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.representations.face_topology import IBUG_68
from unisync_loss.video.clip import read_clip
from unisync_loss.video.extraction import landmarks_of_mesh

ASSETS = Path(unisync_loss.__file__).parent / "assets"


class TestVideo:
    @pytest.fixture(scope="class")
    def frames(self):
        pytest.importorskip("mediapipe")
        return read_clip(ASSETS / "demo.mp4", max_frames=12).frames

    @pytest.mark.parametrize(
        ("visual", "features", "shape"),
        [
            ("rgb", 3, (1, 12, 3, 192, 192)),
            ("parsing", 6, (1, 12, 6, 128, 128)),
            ("landmarks", 136, (1, 12, 68, 2)),
            ("landmarks", 204, (1, 12, 68, 3)),
            ("landmarks", 40, (1, 12, 20, 2)),
            ("landmarks", 1404, (1, 12, 468, 3)),
            ("3dmm", 40, (1, 12, 40)),
        ],
    )
    def test_an_expert_takes_it(self, frames, visual, features, shape):
        config = UniSyncConfig(visual=visual, visual_features=features, embedding=8)
        made = visual_of_frames(config, frames)
        assert made.shape == shape
        with torch.no_grad():
            assert UniSyncExpert(config).eval()(made, torch.randn(1, 12 * 640) / 10).shape == (1, 8)

    def test_landmarks_are_pixels_of_an_oblong_picture(self, frames):
        """Squeezed to half the height, the points follow the pixels, and depth stays a length."""
        config = UniSyncConfig(visual="landmarks", visual_features=204)
        whole, squeezed = visual_of_frames(config, frames[:3]), visual_of_frames(config, frames[:3, ::2])
        assert whole[..., :2].amin() > 20
        assert (squeezed[..., 0] - whole[..., 0]).abs().mean() < 2
        assert (2 * squeezed[..., 1] - whole[..., 1]).abs().mean() < 4

    def test_no_face(self):
        pytest.importorskip("mediapipe")
        with pytest.raises(ValueError, match="expected a face in every frame, found one in 0 of 5"):
            visual_of_frames(UniSyncConfig(visual="parsing"), np.zeros((5, 64, 64, 3), np.uint8))

    @pytest.mark.parametrize(
        ("visual", "features", "message"),
        [
            ("3dmm", 64, "the 40 coefficients that are made from video, got an expert on 64 of another face model"),
            ("landmarks", 956, "468, 68, 20 points, which are made from video, got 956 coordinates"),
        ],
    )
    def test_what_cannot_be_made(self, visual, features, message):
        with pytest.raises(ValueError, match=message):
            visual_of_frames(UniSyncConfig(visual=visual, visual_features=features), np.zeros((5, 8, 8, 3), np.uint8))


def test_chosen_landmarks():
    mesh = torch.randn(2, 468, 3)
    assert torch.equal(landmarks_of_mesh(mesh, 60), mesh[:, list(IBUG_68)][:, 48:])
    assert torch.equal(landmarks_of_mesh(mesh, 936), mesh[..., :2])
    with pytest.raises(ValueError, match="got 137 coordinates"):
        landmarks_of_mesh(mesh, 137)
