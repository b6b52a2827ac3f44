import pytest
import torch

from unisync_loss.models.mouth_aligner import MouthAligner, pose_error, sample_mouth


def image(pose, size=128):
    """A smooth pattern in template coordinates, drawn at a pose."""
    grid = (torch.arange(size) + 0.5) / size
    ys, xs = torch.meshgrid(grid, grid, indexing="ij")
    inverse = torch.linalg.inv(pose[:, :2])
    place = torch.stack([xs, ys]).flatten(1) - pose[:, 2:]
    u, v = (inverse @ place).reshape(2, size, size)
    return torch.stack([torch.sin(3 * u), torch.sin(4 * v), torch.cos(2 * u + v)])[None] / 2 + 0.5


def test_the_cut_does_not_depend_on_place_size_and_tilt():
    upright = torch.tensor([[0.3, 0.0, 0.5], [0.0, 0.3, 0.3]])
    tilted = torch.tensor([[0.38, -0.06, 0.45], [0.06, 0.33, 0.35]])
    cuts = [sample_mouth(image(pose), pose[None]) for pose in (upright, tilted)]
    assert (cuts[0] - cuts[1]).abs().max() < 0.01


def test_no_gradient_through_the_pose():
    aligner = MouthAligner()
    frames = torch.rand(2, 3, 96, 96, requires_grad=True)
    aligner.crop_mouths(frames).sum().backward()
    assert frames.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in aligner.parameters())


def test_a_new_aligner_answers_the_mean_pose():
    aligner = MouthAligner().eval()
    with torch.no_grad():
        assert torch.allclose(aligner(torch.rand(2, 3, 50, 70)), aligner.coarse.mean_pose.expand(2, 2, 3), atol=1e-6)


def test_pose_error_is_in_units_of_the_face():
    pose = torch.tensor([[[0.2, 0.0, 0.5], [0.0, 0.2, 0.4]]])
    moved = pose.clone()
    moved[:, 0, 2] += 0.02
    assert pose_error(moved, pose).item() == pytest.approx(0.1)
