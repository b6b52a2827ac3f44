import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig
from unisync_loss.representations import points_of_idexp, visual_input
from unisync_loss.representations.face_topology import IBUG_68, MEAN_FACE_68, MOUTH_20, RIGID_OF_68
from unisync_loss.representations.landmarks import normalise_landmarks

LAYOUTS = [(points, axes) for points in (68, 20, 468, 478) for axes in (2, 3)]


def faces(points, axes, frames=4):
    """Mean faces with noise, of any layout, in float64."""
    mean = torch.tensor(MEAN_FACE_68, dtype=torch.float64)
    mesh = torch.randn(478, 3, dtype=torch.float64)
    mesh[list(IBUG_68)] = mean
    whole = {68: mean, 20: mean[list(MOUTH_20)], 468: mesh[:468], 478: mesh}[points]
    return whole[:, :axes] + 0.02 * torch.randn(1, frames, points, axes, dtype=torch.float64)


def rotation(axes):
    turn = torch.linalg.qr(torch.randn(axes, axes, dtype=torch.float64)).Q
    return turn * torch.linalg.det(turn).sign() if axes == 3 else turn * torch.tensor([1, torch.linalg.det(turn)])


@pytest.mark.parametrize(("points", "axes"), LAYOUTS)
def test_place_size_and_rotation_leave(points, axes):
    face = faces(points, axes)
    moved = 37 * face @ rotation(axes).mT + 100 * torch.randn(axes, dtype=torch.float64)
    assert torch.allclose(normalise_landmarks(moved), normalise_landmarks(face), atol=1e-9)


@pytest.mark.parametrize(("points", "axes"), LAYOUTS)
def test_the_shape_stays(points, axes):
    """All distances shrink alike: nothing is sheared."""
    face = faces(points, axes)
    before, after = (
        (value[..., 1:, :] - value[..., :1, :]).norm(dim=-1) for value in (face, normalise_landmarks(face))
    )
    assert torch.allclose(after / before, (after / before)[..., :1], atol=1e-9)


@pytest.mark.parametrize(("points", "axes"), LAYOUTS)
def test_the_mean_face_stays(points, axes):
    face = faces(points, axes)
    chosen = {68: RIGID_OF_68, 20: range(20)}.get(points, [IBUG_68[p] for p in RIGID_OF_68])
    exact = faces(points, axes, 1)
    mean = torch.tensor(MEAN_FACE_68, dtype=torch.float64)[:, :axes]
    exact[..., list(chosen), :] = mean[list(MOUTH_20 if points == 20 else RIGID_OF_68)]
    assert torch.allclose(normalise_landmarks(exact), exact, atol=1e-9)
    assert not torch.allclose(normalise_landmarks(face), face, atol=1e-3)


def test_two_dimensions_are_the_least_squares_similarity():
    """Against numpy: an independent solution of the same four unknowns."""
    face = (30 * faces(68, 2, 1) @ rotation(2) + 5)[0, 0]
    rigid, mean = face[list(RIGID_OF_68)].numpy(), np.array(MEAN_FACE_68)[list(RIGID_OF_68), :2]
    rows = np.concatenate(
        [
            np.stack([mean[:, 0], -mean[:, 1], np.ones(10), np.zeros(10)], 1),
            np.stack([mean[:, 1], mean[:, 0], np.zeros(10), np.ones(10)], 1),
        ]
    )
    (c, s, x, y), *_ = np.linalg.lstsq(rows, np.concatenate([rigid[:, 0], rigid[:, 1]]), rcond=None)
    expected = (face.numpy() - [x, y]) @ np.linalg.inv(np.array([[c, -s], [s, c]])).T
    assert np.allclose(normalise_landmarks(face).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("axes", [2, 3])
def test_68_of_the_mesh_are_the_68(axes):
    mesh = faces(468, axes)
    index = list(IBUG_68)
    assert torch.allclose(normalise_landmarks(mesh)[..., index, :], normalise_landmarks(mesh[..., index, :]), atol=1e-9)


def test_what_the_mouth_does_stays():
    face = faces(68, 3)
    opened = face.clone()
    opened[..., 56:59, 1] += 0.1
    change = normalise_landmarks(opened) - normalise_landmarks(face)
    assert torch.equal(change.abs().amax((0, 1, 3)) > 1e-9, torch.isin(torch.arange(68), torch.tensor([56, 57, 58])))


@pytest.mark.parametrize(("points", "axes"), [(68, 2), (20, 3), (68, 3)])
def test_gradient(points, axes):
    face = faces(points, axes, 1).requires_grad_()
    assert torch.autograd.gradcheck(normalise_landmarks, (face,))
    normalise_landmarks(face).square().sum().backward()
    # the sum over points is a shift of the head, the sum of point times gradient its growth
    assert face.grad.abs().max() > 0.01
    assert face.grad.sum(2).abs().max() < 1e-9
    assert (face.grad * face.detach()).sum().abs() < 1e-9


def test_points_all_in_one_place_stay_finite():
    face = torch.zeros(1, 5, 68, 3, requires_grad=True)
    normalise_landmarks(face).sum().backward()
    assert torch.isfinite(face.grad).all()


def test_half_precision_pixels():
    """256 pixels squared overflow float16."""
    face = 250 * faces(68, 2) + 300
    exact, half = normalise_landmarks(face), normalise_landmarks(face.half())
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < 5e-3


@pytest.mark.parametrize("shape", [(1, 5, 67, 2), (1, 5, 68, 4), (68,)])
def test_wrong_points(shape):
    with pytest.raises(ValueError, match=r"68, 20, 468 or 478 points, 2 or 3 axes\), got"):
        normalise_landmarks(torch.rand(shape))


@pytest.mark.parametrize(("points", "axes"), LAYOUTS)
def test_every_layout_is_an_input(points, axes):
    convert = visual_input(UniSyncConfig(visual="landmarks", visual_features=points * axes))
    assert convert(faces(points, axes).float()).shape == (1, 4, points * axes)
    with pytest.raises(ValueError, match=f"{points * axes} coordinates per frame, got"):
        convert(torch.rand(1, 5, 68, 1))


def test_unknown_number_of_coordinates():
    with pytest.raises(ValueError, match=r"68, 20, 468 or 478 landmarks times 2 or 3 axes, one of 136, 204, .*got 10"):
        UniSyncConfig(visual="landmarks", visual_features=10)


class TestIdexp:
    def test_neutral_is_the_mean_face(self):
        mean = torch.tensor(MEAN_FACE_68)
        assert torch.equal(points_of_idexp(torch.zeros(2, 5, 204)), mean.expand(2, 5, 68, 3))
        assert torch.equal(points_of_idexp(torch.zeros(5, 20, 3)), mean[48:].expand(5, 20, 3))

    def test_a_millimetre_down(self):
        """GeneFace: y up, decimetres times ten. Ours: y down, eye corners 88 mm apart."""
        idexp = torch.zeros(1, 5, 68, 3)
        idexp[..., 57, 1] = -10 * 0.01
        moved = (points_of_idexp(idexp) - torch.tensor(MEAN_FACE_68)) * 88
        assert moved[0, 0, 57].tolist() == pytest.approx([0, 1, 0], abs=1e-4)
        assert moved.abs().sum() == pytest.approx(5, abs=1e-3)

    def test_flat_and_shaped_and_mouth_agree(self):
        idexp = torch.randn(2, 5, 68, 3)
        whole = points_of_idexp(idexp)
        assert torch.equal(whole, points_of_idexp(idexp.reshape(2, 5, 204)))
        assert torch.equal(whole[..., 48:, :], points_of_idexp(idexp[..., 48:, :].reshape(2, 5, 60)))

    def test_gradient_reaches_it(self):
        idexp = torch.randn(2, 5, 204, requires_grad=True)
        normalise_landmarks(points_of_idexp(idexp)).square().sum().backward()
        assert idexp.grad.abs().max() > 0

    def test_mesh_of_mimictalk(self):
        """Six points of its map have no vertex, and show that of another place."""
        idexp = torch.randn(2, 5, 468, 3)
        points = points_of_idexp(idexp)
        chosen = points_of_idexp(idexp[..., list(IBUG_68), :])
        assert torch.equal(points, points_of_idexp(idexp.reshape(2, 5, 1404)))
        assert torch.equal(points[..., 3:14, :], chosen[..., 3:14, :])
        assert torch.equal(points[..., 17:, :], chosen[..., 17:, :])
        without = [number for number, point in enumerate(IBUG_68) if point in (93, 127, 132, 234, 323, 356, 361, 454)]
        assert len(without) == 6
        assert torch.equal(points[..., without, :], torch.tensor(MEAN_FACE_68)[without].expand(2, 5, 6, 3))

    @pytest.mark.parametrize("shape", [(2, 5, 136), (2, 5, 68, 2), (60, 2)])
    def test_wrong_shape(self, shape):
        with pytest.raises(ValueError, match=r"idexp: expected \(..., 204, 60 or 1404\)"):
            points_of_idexp(torch.zeros(shape))


def test_tables_are_symmetric():
    """Mirrored points lie at mirrored places; names of left and right are not mixed up."""
    mean = np.array(MEAN_FACE_68)
    pairs = [(i, 16 - i) for i in range(8)] + [(i, 43 - i) for i in range(17, 22)] + [(31, 35), (32, 34)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (59, 55)]
    pairs += [(58, 56), (60, 64), (61, 63), (67, 65)]
    for right, left in pairs:
        assert mean[right] == pytest.approx(mean[left] * [-1, 1, 1], abs=1e-9)
        assert mean[right, 0] < 0
    assert mean[8, 1] > mean[57, 1] > mean[66, 1] > mean[62, 1] > mean[51, 1] > mean[33, 1] > mean[19, 1]
    assert len(set(IBUG_68)) == 68
