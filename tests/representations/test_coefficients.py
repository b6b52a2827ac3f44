import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.models.pretrained import load_expert, save_pretrained
from unisync_loss.representations import visual_input


@pytest.mark.parametrize("width", [64, 50, 53, 52, 10, 7])
def test_any_width_is_standardised(width):
    convert = visual_input(UniSyncConfig(visual="3dmm", visual_features=width))
    data = torch.randn(500, width) * torch.logspace(-3, 3, width) + torch.arange(width)
    convert.measure(data)
    out = convert(data[None])
    assert torch.allclose(out.mean((0, 1)), torch.zeros(width), atol=1e-3)
    assert torch.allclose(out.std((0, 1)), torch.ones(width), atol=1e-3)


def test_constant_coefficients_stay_finite():
    convert = visual_input(UniSyncConfig(visual="3dmm", visual_features=3))
    convert.measure(torch.tensor([[1.0, 2.0, 5.0], [2.0, 2.0, 5.0]]))
    assert convert(torch.tensor([[[1.5, 2.0, 6.0]]])).tolist() == [[[0.0, 0.0, 1.0]]]


def test_statistics_travel_with_the_weights(tmp_path):
    expert = UniSyncExpert(UniSyncConfig(visual="3dmm", visual_features=6, embedding=8)).eval()
    expert.visual_input.measure(3 + 2 * torch.randn(100, 6))
    save_pretrained(expert, tmp_path / "expert")
    other, video, mel = load_expert(tmp_path / "expert"), torch.randn(1, 5, 6), torch.rand(1, 80, 16)
    with torch.no_grad():
        assert torch.equal(other(video, mel), expert(video, mel))
    assert torch.equal(other.visual_input.mean, expert.visual_input.mean)
    assert expert.visual_input.mean.mean() > 2


@pytest.mark.parametrize(
    ("width", "message"),
    [(257, "looks like all coefficients of Deep3DFaceRecon"), (50, "looks like expression of FLAME"), (63, r"63\) t")],
)
def test_another_width_is_named(width, message):
    with pytest.raises(ValueError, match=rf"expected 3dmm as \(B, T, 64\).*{message}"):
        visual_input(UniSyncConfig(visual="3dmm"))(torch.randn(1, 5, width))


@pytest.mark.parametrize("data", [torch.zeros(1, 64), torch.zeros(5, 63), torch.full((5, 64), torch.nan)])
def test_wrong_training_data(data):
    with pytest.raises(ValueError, match="expected"):
        visual_input(UniSyncConfig(visual="3dmm")).measure(data)
