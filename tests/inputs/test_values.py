import pytest
import torch

from unisync_loss.inputs.values import check_finite, check_video, check_weights, one_or_nan


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_or_nan(bad):
    video, audio = torch.rand(3, 5, 7), torch.rand(3, 9, 2)
    assert one_or_nan(video, audio).tolist() == [[1], [1], [1]]
    video[0, 4, 6] = bad
    audio[2, 0, 0] = bad
    assert one_or_nan(video, audio).isnan().tolist() == [[True], [False], [True]]


def test_sums_do_not_overflow_in_half_precision():
    assert one_or_nan(torch.full((1, 4, 100_000), 60_000.0).half()).item() == 1


def test_not_finite():
    check_finite("audio", torch.rand(3, 4))
    value = torch.rand(3, 4, 2)
    value[1, 2, 0], value[2, 0, 0] = torch.nan, torch.inf
    with pytest.raises(
        ValueError, match="audio: expected finite values, got NaN or infinity in 2 of 24, first in clip 1"
    ):
        check_finite("audio", value)


def test_video_range():
    video = torch.linspace(0, 1, 60).view(1, 5, 12)
    assert check_video(video, "rgb", (0.0, 1.0)) == []
    (finding,) = check_video(1.03 * video, "rgb", (0.0, 1.0))
    assert finding.text == "video: expected rgb in [0, 1], got values in [0, 1.03]"
    assert check_video(255 * video, "landmarks", None) == []
    assert check_video((9 * video).byte(), "parsing", (0.0, 1.0)) == []
    for wrong in (255 * video, 2 * video - 1):
        with pytest.raises(ValueError, match=r"video: expected rgb in \[0, 1\], got values in"):
            check_video(wrong, "rgb", (0.0, 1.0))
    with pytest.raises(ValueError, match="video: expected finite"):
        check_video(video / video, "landmarks", None)


@pytest.mark.parametrize(("value", "message"), [(-0.5, "expected 0 or more, got -0.5"), (torch.nan, "expected finite")])
def test_weights(value, message):
    weights = torch.ones(2, 3)
    check_weights(weights)
    weights[1, 1] = value
    with pytest.raises(ValueError, match=f"weights: {message}"):
        check_weights(weights)
