import pytest
import torch

from unisync_loss.inputs.batch import check_batch, check_tensors, check_type


@pytest.mark.parametrize(
    ("video", "audio", "message"),
    [
        (torch.rand(2, 9, 3), torch.rand(3, 5760), r"batch sizes 2 \(video\) and 3 \(audio\)"),
        (torch.rand(2, 9, 3), torch.rand(5760), r"audio: expected a batch .*got \(5760,\)"),
        (torch.rand(0, 9, 3), torch.rand(0, 5760), r"video: expected a batch .*got \(0, 9, 3\)"),
        ([torch.rand(9, 3)], torch.rand(2, 5760), "video: expected a batch .*got list"),
        (torch.rand(2, 9, device="meta"), torch.rand(2, 9), "the loss's device cpu, got meta and cpu"),
    ],
)
def test_wrong(video, audio, message):
    with pytest.raises(ValueError, match=message):
        check_batch(torch.device("cpu"), video=video, audio=audio)


def test_right():
    check_batch(torch.device("cpu"), video=torch.rand(2, 9, 3), audio=torch.rand(2, 5760))


def test_type():
    check_type("net", torch.zeros(2), torch.Tensor, "load_net")
    with pytest.raises(ValueError, match="net: expected a Tensor, got 'mel-rgb': use load_net"):
        check_type("net", "mel-rgb", torch.Tensor, "load_net")
    with pytest.raises(ValueError, match="net: expected a Tensor, got int"):
        check_type("net", 3, torch.Tensor, "load_net")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, device="meta"), "mask: expected it on cpu, like video, got meta"),
        (torch.ones(2).to_sparse(), "mask: expected a dense tensor of real numbers, got torch.sparse_coo"),
        (torch.zeros(2, dtype=torch.complex64), "mask: expected a dense tensor of real numbers, got .*complex64"),
    ],
)
def test_tensors(value, message):
    check_tensors(torch.device("cpu"), mask=None, weights=torch.ones(2), boxes="no tensor")
    with pytest.raises(ValueError, match=message):
        check_tensors(torch.device("cpu"), mask=value)
