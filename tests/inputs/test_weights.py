import pytest
import torch

from unisync_loss.inputs.weights import blank_padding, frame_mask, window_weights

VIDEO = torch.rand(2, 9, 3, 4, 4)


def test_weights_per_clip_are_those_of_each_window():
    whole = window_weights((2, 5), VIDEO, None, torch.tensor([[1.0], [3.0]]).expand(2, 5), 1)
    for weights in (torch.tensor([1.0, 3.0]), torch.tensor([[1.0], [3.0]])):
        assert torch.equal(window_weights((2, 5), VIDEO, None, weights, 1), whole)


def test_a_window_counts_if_all_its_frames_do():
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 3] = False
    assert window_weights((2, 3), VIDEO, mask, None, 2).tolist() == [[0, 0, 1], [1, 1, 1]]


def test_padding_may_hold_anything():
    video = VIDEO.clone()
    video[0, 3] = torch.nan
    video.requires_grad_()
    mask = torch.ones(2, 9)
    mask[0, 3] = 0
    blank = blank_padding(video, frame_mask(video, mask))
    blank.square().sum().backward()
    assert torch.equal(blank[1], VIDEO[1])
    assert blank[0, 3].abs().max() == video.grad[0, 3].abs().max() == 0
    assert blank_padding(VIDEO, frame_mask(VIDEO, torch.ones(2, 5))) is VIDEO


@pytest.mark.parametrize(
    ("mask", "weights", "message"),
    [
        (torch.ones(2, 3), None, r"\(B, T\) = \(2, 9\) or \(B, W\) = \(2, 5\), got \(2, 3\)"),
        ([[True] * 9] * 2, None, r"mask: expected \(B, T\) = \(2, 9\).*got list"),
        (None, [[1.0] * 5] * 2, r"weights: expected \(B, W\) = \(2, 5\), or \(B,\) or \(B, 1\) per clip, got list"),
        (None, torch.ones(2, 9), r"weights: expected \(B, W\) = \(2, 5\).*got \(2, 9\)"),
        (None, torch.ones(5), r"weights: expected .*got \(5,\)"),
    ],
)
def test_wrong_shapes(mask, weights, message):
    with pytest.raises(ValueError, match=message):
        window_weights((2, 5), VIDEO, mask, weights, 1)
