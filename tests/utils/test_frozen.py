import pytest
import torch
from torch import nn

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.utils.frozen import ConstantTables, FrozenModule


def test_a_frozen_network_is_hidden_and_copied():
    module = FrozenModule(nn.Linear(2, 2))
    parent = nn.ModuleDict({"module": module}).train().requires_grad_(True)
    assert not list(parent.parameters())
    assert not parent.state_dict()
    assert not module.training
    assert not module.network.training
    assert not module.network.weight.requires_grad


def test_a_network_that_is_frozen_in_part_is_frozen_as_a_whole():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval()
    network[0].requires_grad_(False)
    network[1].train()
    module = FrozenModule(network)
    assert not any(parameter.requires_grad for parameter in module.network.parameters())
    assert not any(part.training for part in module.network.modules())


def test_a_network_that_another_module_trains_is_frozen_again():
    module = FrozenModule(nn.Linear(2, 2))
    nn.ModuleList([module.network]).train().requires_grad_(True)
    assert module.network.training
    module.freeze()
    assert not module.network.training
    assert not module.network.weight.requires_grad


def test_tables_move_unrounded_and_unsaved():
    tables = ConstantTables(table=torch.tensor([1 / 3]), index=torch.tensor([1]))
    parent = nn.ModuleDict({"tables": tables})
    assert not parent.state_dict()
    assert parent.half().bfloat16().tables.table.item() == pytest.approx(1 / 3, rel=1e-7)
    assert parent.double().tables.table.dtype == torch.float64
    assert tables.index.dtype == torch.int64
    assert parent.to("meta").tables.table.device.type == "meta"


@pytest.mark.parametrize(
    ("part", "config", "value"),
    [
        ("audio_input", UniSyncConfig(embedding=8), torch.randn(1, 3200) / 10),
        ("visual_input", UniSyncConfig(visual="landmarks", embedding=8), torch.rand(1, 5, 68, 2)),
    ],
)
def test_an_expert_in_half_precision_keeps_its_tables(part, config, value):
    """The features are those of the expert in float32: the tables are not rounded with the weights."""
    expert = UniSyncExpert(config)
    before = getattr(expert, part)(value)
    assert torch.equal(getattr(expert.half(), part)(value), before)
