import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unisync_loss.inputs.frames import GeneratorFrames, check_boxes

PLAIN = GeneratorFrames("rgb", None, "rgb")


def test_a_range_is_mapped_and_clamped_and_the_gradient_passes():
    video = torch.tensor([-1.3, -1.0, 0.0, 1.0, 1.2]).view(1, 5, 1, 1, 1).expand(1, 5, 3, 2, 2).clone().requires_grad_()
    frames = GeneratorFrames("rgb", (-1, 1), "rgb").convert(video)
    frames.sum().backward()
    assert frames[0, :, 0, 0, 0].tolist() == [0, 0, 0.5, 1, 1]
    assert (video.grad == 0.5).all()


def test_half_precision_is_mapped_in_float32():
    assert GeneratorFrames("rgb", (-1, 1), "rgb").convert(torch.rand(1, 5, 3, 2, 2).half()).dtype == torch.float32


def test_bgr():
    video = torch.rand(1, 5, 3, 2, 2)
    assert torch.equal(GeneratorFrames("rgb", None, "bgr").convert(video), video[:, :, [2, 1, 0]])
    assert PLAIN.convert(video) is video


def test_flattened_clips():
    video = torch.rand(3, 6, 3, 2, 2)
    assert torch.equal(PLAIN.unflatten(video.flatten(0, 1), 6), video)
    assert PLAIN.unflatten(video, None) is video
    with pytest.raises(ValueError, match=r"expected \(B \* 7, …\), 7 frames per clip, got \(18, 3, 2, 2\)"):
        PLAIN.unflatten(video.flatten(0, 1), 7)


@pytest.mark.parametrize("per_frame", [False, True])
def test_boxes(per_frame):
    video = torch.rand(2, 5, 3, 400, 640, requires_grad=True)
    boxes = torch.tensor([[100, 20, 420, 340], [0, 0, 320, 320]])
    boxes = boxes[:, None].expand(2, 5, 4) if per_frame else boxes
    faces = PLAIN.crop(video, boxes)
    expected = torch.stack([video[0, :, :, 20:340, 100:420], video[1, :, :, :320, :320]])
    assert torch.allclose(faces, F.avg_pool2d(expected.flatten(0, 1), 2).unflatten(0, (2, 5)), atol=1e-4)
    faces.sum().backward()
    assert video.grad[0, :, :, :, :99].abs().max() == 0
    assert (video.grad[0, :, :, 20:340, 100:420] > 0).all()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([10, 10, 10, 50], r"left < right .* picture of 40 x 60, got \[10.0, 10.0, 10.0, 50.0\]"),
        ([70, 10, 90, 50], "got .70.0, 10.0"),
        ([torch.nan, 10, 90, 50], "boxes: expected finite"),
    ],
)
def test_wrong_boxes(box, message):
    check_boxes(torch.tensor([[-5.0, 3.0, 30.0, 70.0]]), 40, 60)
    with pytest.raises(ValueError, match=message):
        check_boxes(torch.tensor([[0, 0, 9, 9], box]).float(), 40, 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("rgb", None, "rbg"), 'channel_order: expected "rgb" or "bgr"'),
        (("rgb", None, np.zeros(2)), 'channel_order: expected "rgb" or "bgr", got ndarray'),
        (("rgb", (1, -1), "rgb"), r"value_range: expected \(lowest, highest\), got \(1, -1\)"),
        (("rgb", (0, 1, 2), "rgb"), r"value_range: expected \(lowest, highest\), got \(0, 1, 2\)"),
        (("rgb", 255, "rgb"), r"value_range: expected \(lowest, highest\), got 255"),
        (("rgb", (0, float("inf")), "rgb"), r"value_range: expected \(lowest, highest\), got \(0, inf\)"),
        (("rgb", ("0", "1"), "rgb"), "value_range: expected a number, got '0'"),
        (("landmarks", (-1, 1), "rgb"), "for an expert on rgb only, got one on landmarks"),
        (("parsing", None, "bgr"), "for an expert on rgb only, got one on parsing"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        GeneratorFrames(*options)


def test_wrong_shapes_of_boxes():
    with pytest.raises(ValueError, match=r"boxes: expected \(B, 4\) = \(2, 4\) or .*got \(2, 3\)"):
        PLAIN.crop(torch.rand(2, 5, 3, 8, 8), torch.rand(2, 3))
    with pytest.raises(ValueError, match="boxes: expected them for an expert on rgb only"):
        GeneratorFrames("landmarks", None, "rgb").crop(torch.rand(2, 5, 68, 2), torch.rand(2, 4))
