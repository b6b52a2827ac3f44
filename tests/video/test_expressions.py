"""The linear face model."""

import pytest
import torch

from unisync_loss.representations.face_topology import IBUG_68, INNER_LIPS, MEAN_FACE_68
from unisync_loss.video.expressions import EXPRESSIONS, _tables, expression_of_mesh, mirrored_points


def mean_mesh():
    """(468, 3), eye corners one apart."""
    return _tables()[0].unflatten(0, (468, 3))


def test_coefficients_come_back():
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


def test_the_mean_has_none():
    assert expression_of_mesh(mean_mesh()).abs().max() < 0.1


def test_mean_is_the_mean_face():
    assert (mean_mesh()[list(IBUG_68)] - torch.tensor(MEAN_FACE_68)).abs().max() < 0.02


def test_gradient_after_a_first_call_in_inference_mode():
    _tables.cache_clear()
    with torch.inference_mode():
        expression_of_mesh(torch.zeros(468, 3).double() + torch.arange(3) * torch.rand(468, 1))
    mesh = mean_mesh().clone().requires_grad_()
    expression_of_mesh(mesh).square().sum().backward()
    assert mesh.grad[list(INNER_LIPS)].abs().max() > 0


@pytest.mark.parametrize("shape", [(5, 468, 2), (5, 478, 3), (468,)])
def test_wrong_mesh(shape):
    with pytest.raises(ValueError, match=r"mesh: expected \(..., 468 points, 3 axes\), got"):
        expression_of_mesh(torch.zeros(shape))


def test_flip_indices_swap_the_sides_of_the_face():
    pytest.importorskip("scipy")
    flipped = torch.tensor(mirrored_points())
    assert torch.equal(flipped[flipped], torch.arange(468))
    mean = mean_mesh()
    assert (mean[flipped] * torch.tensor([-1.0, 1.0, 1.0]) - mean).abs().max() < 0.1
