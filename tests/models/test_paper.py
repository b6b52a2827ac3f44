import torch

from unisync_loss.models.paper import lower_half


def test_lower_half_of_96_is_plain_slicing():
    video = torch.rand(2, 5, 3, 96, 96)
    assert torch.equal(lower_half(video), video[..., 48:, :])


def test_lower_half_sends_no_gradient_to_the_upper():
    video = torch.rand(1, 5, 3, 192, 160, requires_grad=True)
    lower_half(video).square().sum().backward()
    assert video.grad[..., :94, :].abs().max() == 0  # anti-aliasing reaches two rows over the middle
    assert (video.grad[..., 98:, :].abs().sum((2, 3, 4)) > 0).all()
