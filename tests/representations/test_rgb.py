"""RGB frames: which are accepted."""

import pytest
import torch

from unisync_loss import UniSyncConfig
from unisync_loss.representations import visual_input


@pytest.mark.parametrize("shape", [(1, 5, 3, 96, 96), (2, 7, 3, 16, 300)])
def test_frames_pass_unchanged(shape):
    frames = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    assert visual_input(UniSyncConfig())(frames) is frames


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(1, 3, 5, 96, 96), r"expected rgb as \(B, T, 3, H, W\).*got \(1, 3, 5, 96, 96\)"),
        (torch.zeros(1, 5, 3, 96, 96, dtype=torch.uint8), "floating point.*got .*uint8"),
        (torch.rand(5, 3, 96, 96), r"expected .*got \(5, 3, 96, 96\)"),
        (torch.rand(1, 5, 3, 15, 96), r"at least 16, got \(1, 5, 3, 15, 96\)"),
    ],
    ids=["axes in another order", "bytes", "no batch", "too small"],
)
def test_other_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        visual_input(UniSyncConfig())(frames)
