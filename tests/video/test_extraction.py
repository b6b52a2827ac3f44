from pathlib import Path

import numpy as np
import pytest
import torch

import unisync_loss
from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.representations.face_topology import IBUG_68, INNER_LIPS, MEAN_FACE_68
from unisync_loss.video.clip import read_clip
from unisync_loss.video.expressions import EXPRESSIONS, _tables, expression_of_mesh
from unisync_loss.video.extraction import landmarks_of_mesh, visual_of_frames
from unisync_loss.video.face_mesh import fill_gaps

ASSETS = Path(unisync_loss.__file__).parent / "assets"


def mean_mesh():
    """(468, 3), eye corners one apart."""
    return _tables()[0].unflatten(0, (468, 3))


class TestFaceModel:
    def test_coefficients_come_back(self):
        """A face made from the model, moved, turned and grown; eyes and nose move little with an expression."""
        mean, solver = _tables()
        axes = torch.linalg.pinv(solver)
        wanted = torch.randn(3, 6, EXPRESSIONS, dtype=torch.float64) / 3
        mesh = (mean + wanted @ axes).unflatten(-1, (468, 3))
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
        moved = 120 * mesh @ (turn * torch.linalg.det(turn).sign()).mT + torch.tensor([90.0, 70.0, 0.0])
        found = expression_of_mesh(moved)
        assert torch.allclose(found, expression_of_mesh(mesh), atol=1e-8)
        assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.9

    def test_the_mean_has_none(self):
        assert expression_of_mesh(mean_mesh()).abs().max() < 0.1

    def test_mean_is_the_mean_face(self):
        assert (mean_mesh()[list(IBUG_68)] - torch.tensor(MEAN_FACE_68)).abs().max() < 0.02

    def test_gradient(self):
        mesh = mean_mesh().clone().requires_grad_()
        expression_of_mesh(mesh).square().sum().backward()
        assert mesh.grad[list(INNER_LIPS)].abs().max() > 0

    @pytest.mark.parametrize("shape", [(5, 468, 2), (5, 478, 3), (468,)])
    def test_wrong_mesh(self, shape):
        with pytest.raises(ValueError, match=r"mesh: expected \(..., 468 points, 3 axes\), got"):
            expression_of_mesh(torch.zeros(shape))


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


def test_gaps_take_the_nearest_face():
    mesh = np.arange(10, dtype=np.float32)[:, None, None] * np.ones((1, 468, 3), np.float32)
    mesh[[3, 9]] = np.nan
    assert fill_gaps(mesh)[:, 0, 0].tolist() == [0, 1, 2, 2, 4, 5, 6, 7, 8, 8]
    mesh[[0, 1]] = np.nan
    with pytest.raises(ValueError, match="found one in 6 of 10"):
        fill_gaps(mesh)


def test_chosen_landmarks():
    mesh = torch.randn(2, 468, 3)
    assert torch.equal(landmarks_of_mesh(mesh, 60), mesh[:, list(IBUG_68)][:, 48:])
    assert torch.equal(landmarks_of_mesh(mesh, 936), mesh[..., :2])
    with pytest.raises(ValueError, match="got 137 coordinates"):
        landmarks_of_mesh(mesh, 137)
