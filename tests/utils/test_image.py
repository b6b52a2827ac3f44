"""Resizing, standardising and affine sampling of images."""

import pytest
import torch
from torch.nn import functional as F

from unisync_loss.utils.image import (
    compose_affine,
    invert_affine,
    resize,
    sample_region,
    standardise_images,
    subregion,
)

TILTED = torch.tensor([[0.38, -0.06, 0.45], [0.06, 0.33, 0.35]])
WHOLE = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_a_map_after_its_inverse_changes_nothing():
    assert torch.allclose(compose_affine(TILTED, invert_affine(TILTED)), WHOLE, atol=1e-6)
    other = torch.tensor([[1.2, 0.1, -0.3], [0.0, 0.8, 0.2]])
    point = torch.tensor([0.3, 0.7, 1.0])
    inner = torch.cat([other @ point, torch.ones(1)])
    assert torch.allclose(compose_affine(TILTED, other) @ point, TILTED @ inner, atol=1e-6)


def test_a_square_of_the_plane_has_its_corners_where_the_map_puts_them():
    square = subregion(TILTED, (0.2, -0.1), 0.5)
    for corner in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]):
        place = torch.tensor([0.2 + 0.5 * corner[0], -0.1 + 0.5 * corner[1], 1.0])
        assert torch.allclose(square @ torch.tensor([*corner, 1.0]), TILTED @ place, atol=1e-6)


def test_a_view_of_the_whole_frame_is_its_mean_over_pixels():
    frames = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    view = sample_region(frames, WHOLE.double().expand(2, 2, 3), 16, oversample=2)
    assert torch.allclose(view, F.avg_pool2d(frames, 2))


def test_outside_a_frame_its_border_is_repeated():
    frames = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    left = torch.tensor([[[1.0, 0.0, -2.0], [0.0, 1.0, 0.0]]])
    assert torch.equal(sample_region(frames, left, 8), torch.zeros(1, 1, 8, 8))


def test_autocast_does_not_round_the_places_of_samples():
    frames, region = torch.rand(1, 3, 200, 200), torch.tensor([[[0.6, 0.1, 0.2], [-0.1, 0.6, 0.3]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = sample_region(frames, region)
    assert torch.equal(cast, sample_region(frames, region))


def test_light_and_contrast_are_removed():
    images = torch.rand(2, 3, 24, 24)
    assert torch.allclose(
        standardise_images(images), standardise_images(0.5 * images + 0.3), atol=1e-2
    )  # of a deviation
    assert torch.allclose(standardise_images(images).std((1, 2, 3)), torch.ones(2), atol=1e-2)
    assert torch.equal(standardise_images(torch.full((1, 3, 8, 8), 0.25)), torch.zeros(1, 3, 8, 8))


def test_resizing_has_a_gradient_and_does_not_alias():
    stripes = (torch.arange(96) % 2).float().expand(1, 1, 96, 96).clone().requires_grad_()
    small = resize(stripes, 32, 32)
    assert (small - 0.5).abs().max() < 0.1
    small.sum().backward()
    assert (stripes.grad > 0).all()
    assert resize(small, 32, 32) is small


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_map_that_is_not_finite_gives_nan_and_no_crash(bad):
    frames = torch.rand(2, 3, 40, 40, requires_grad=True)
    region = torch.stack([WHOLE, WHOLE])
    region[0, 1, 2] = bad
    view = sample_region(frames, region, size=20)
    view.sum().backward()
    assert view.isnan().flatten(1).all(1).tolist() == [True, False]
    assert torch.allclose(view[1], F.avg_pool2d(frames[1], 2), atol=1e-5)
    assert frames.grad[1].isfinite().all()
