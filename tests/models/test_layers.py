"""Batch norms folded into the layers before them compute the same."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss, save_pretrained
from unisync_loss.models.layers import fold_batch_norms


def trained(config):
    """An expert whose batch norms are not those of the first step."""
    expert = UniSyncExpert(config)
    for norm in (module for module in expert.modules() if isinstance(module, _BatchNorm)):
        for value in (norm.weight.data, norm.running_var):
            value.uniform_(0.5, 1.5)
        for value in (norm.bias.data, norm.running_mean):
            value.normal_(0, 0.1)
    return expert


@pytest.mark.parametrize("architecture", ["small", "paper"])
@pytest.mark.parametrize(("audio", "visual"), [("mel", "rgb"), ("hubert", "landmarks"), ("whisper", "parsing")])
def test_the_copy_computes_the_same_without_batch_norms(architecture, audio, visual):
    expert = trained(UniSyncConfig(audio=audio, visual=visual, architecture=architecture, embedding=16))
    before = {key: value.clone() for key, value in expert.state_dict().items()}
    folded = fold_batch_norms(expert)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert expert.training
    assert all(torch.equal(value, before[key]) for key, value in expert.state_dict().items())
    expert.eval()
    shape = {"rgb": (3, 40, 40), "landmarks": (68, 2), "parsing": (6, 40, 40)}[visual]
    video, sound = torch.rand(1, 6, *shape), torch.rand(1, 80, 20) if audio == "mel" else None
    sound = torch.randn(1, 12, expert.config.audio_features) if sound is None else sound
    with torch.no_grad():
        for name, given in (("encode_visual", (video,)), ("encode_audio", (sound, 6))):
            exact, ours = (getattr(network, name)(*given) for network in (expert, folded))
            assert (ours - exact).norm() < 1e-5 * exact.norm()


def test_a_norm_without_a_layer_before_it_is_not_dropped():
    with pytest.raises(AttributeError):
        fold_batch_norms(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)))


def test_a_folded_expert_is_not_saved(expert, tmp_path):
    with pytest.raises(ValueError, match=r"expected the weights of an expert.*save the expert that the loss was made"):
        save_pretrained(UniSyncLoss(expert).expert, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
