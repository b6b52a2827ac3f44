"""The GeneFace adapter with the tensors, training loop and checkpoints of GeneFace."""

import pytest
import torch
from torch import nn
from unisync_loss.adapters.geneface import GeneFaceSync, SyncSwitch

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.representations import points_of_idexp

WIDTH = 64  # GeneFace's is 1024


def loss_on(features=204, width=WIDTH):
    config = UniSyncConfig(
        audio="hubert", visual="landmarks", audio_features=width, visual_features=features, embedding=16
    )
    return UniSyncLoss(UniSyncExpert(config).eval())


@pytest.fixture
def sync():
    return GeneFaceSync(loss_on())


def collated(lengths=(24, 16, 8), width=WIDTH):
    """A batch as LRS3SeqDataset collates it: padded with zeros to a multiple of 8 HuBERT steps, two per frame."""
    frames = max(lengths)
    mask = (torch.arange(frames) < torch.tensor(lengths)[:, None]).float()
    return {
        "idexp_lm3d": torch.randn(len(lengths), frames, 204) / 3 * mask[..., None],
        "hubert": torch.randn(len(lengths), 2 * frames, width) * mask.repeat_interleave(2, 1)[..., None],
        "y_mask": mask,
    }


class Task(nn.Module):
    """The part of an audio2motion task that uses the sync term; the prediction is masked, as in VAEModel."""

    def __init__(self):
        super().__init__()
        self.sync = GeneFaceSync(loss_on())
        self.switch = SyncSwitch(0.01)
        self.model = nn.Linear(2 * WIDTH, 204)

    def run_model(self, sample):
        pairs = sample["hubert"].unflatten(1, (-1, 2)).flatten(2)
        pred = self.model(pairs) * sample["y_mask"][..., None]
        return self.sync(pred, sample["hubert"], sample["y_mask"]), pred


def dump(task):
    """State that GeneFace's trainer saves of a task: its children with parameters."""
    return {name: child.state_dict() for name, child in task.named_children() if len(list(child.parameters())) > 0}


def test_one_training_step():
    task, sample = Task(), collated()
    task.train()
    task.switch.update(0.5)
    loss, pred = task.run_model(sample)
    total = task.switch.weight * loss + (pred - sample["idexp_lm3d"]).square().mean()
    total.backward()
    assert task.model.weight.grad.abs().sum() > 0
    loss, _ = task.run_model(sample)
    task.zero_grad()
    loss.backward()
    assert task.model.weight.grad.abs().sum() > 0  # the sync term alone, too


def test_padding_is_ignored(sync):
    sample = collated()
    terms = sync.terms(sample["idexp_lm3d"], sample["hubert"], sample["y_mask"])
    assert terms.probability.shape == (3, 20)
    assert terms.weights.sum(1).tolist() == [20, 12, 4]
    changed = {name: value.clone() for name, value in sample.items()}
    for row, length in enumerate((24, 16, 8)):
        changed["idexp_lm3d"][row, length:] = 9.0
        changed["hubert"][row, 2 * length :] = 9.0
    own = sync(changed["idexp_lm3d"], changed["hubert"], changed["y_mask"])
    assert torch.allclose(own, terms.loss, atol=1e-5)
    each = [sync.terms(sample["idexp_lm3d"][i : i + 1, :n], sample["hubert"][i : i + 1, : 2 * n]).probability[0]
            for i, n in enumerate((24, 16, 8))]  # fmt: skip
    assert torch.allclose(torch.cat(each).log().mean(), -terms.loss, atol=1e-5)


@pytest.mark.parametrize(("features", "axes", "points"), [(204, 3, 68), (136, 2, 68), (60, 3, 20), (40, 2, 20)])
def test_supported_experts(features, axes, points):
    sync, sample = GeneFaceSync(loss_on(features)), collated((12,))
    landmarks = points_of_idexp(sample["idexp_lm3d"])[:, :, -points:, :axes]
    assert torch.equal(sync(sample["idexp_lm3d"], sample["hubert"]), sync.loss(landmarks, sample["hubert"]))


def test_mouth_only():
    """60 values are points 48 to 67 and give the same loss as the whole face."""
    sync, sample = GeneFaceSync(loss_on(60)), collated((12,))
    mouth = sample["idexp_lm3d"].unflatten(2, (68, 3))[:, :, 48:68].flatten(2)
    own, whole = (sync(landmarks, sample["hubert"]) for landmarks in (mouth, sample["idexp_lm3d"]))
    assert torch.allclose(own, whole, atol=1e-6)


def test_stays_frozen_in_the_trainer():
    """GeneFace validates, calls train() on the task, and switches gradients through its parameters."""
    task, sample = Task(), collated()
    before = task.run_model(sample)[0].item()
    task.eval()
    task.train()
    for parameter in task.parameters():
        parameter.requires_grad = False
    assert task.run_model(sample)[0].item() == before
    assert not task.sync.loss.expert.training
    assert not list(task.sync.parameters())


def test_the_switch_is_in_geneface_checkpoints():
    task = Task()
    task.switch.update(0.7)
    checkpoint = dump(task)
    assert set(checkpoint) == {"switch", "model"}
    resumed = Task()
    assert resumed.switch.weight == 0
    for name, state in checkpoint.items():
        getattr(resumed, name).load_state_dict(state)
    assert float(resumed.switch.weight) == pytest.approx(0.01)


class TestSwitch:
    def test_stays_on(self):
        switch = SyncSwitch(0.1, threshold=0.75)
        assert [switch.update(loss) for loss in (0.9, 0.76, 0.75, 3.0)] == [False, False, True, True]
        assert float(switch.weight) == pytest.approx(0.1)

    def test_optimisers_do_not_change_it(self):
        switch = SyncSwitch(0.1)
        switch.update(0.1)
        optimiser = torch.optim.Adam(switch.parameters(), 1.0, weight_decay=1.0)
        (torch.ones((), requires_grad=True) * switch.weight).backward()
        optimiser.step()
        assert float(switch.weight) == pytest.approx(0.1)

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="weight: expected 0 or more"):
            SyncSwitch(-1)
        for options in ({"weight": None}, {"threshold": "0.75"}):
            with pytest.raises(ValueError, match=f"{next(iter(options))}: expected a number"):
                SyncSwitch(**options)


class TestWrongInput:
    def test_shapes(self, sync):
        sample = collated((12,))
        with pytest.raises(ValueError, match=r"landmarks \(B, T, 204, 60 or 1404\).*\(1, 12, 68, 3\)"):
            sync(sample["idexp_lm3d"].unflatten(2, (68, 3)), sample["hubert"])
        with pytest.raises(ValueError, match=r"hubert: expected \(B, 2T, F\).*12.*\(1, 12, 64\)"):
            sync(sample["idexp_lm3d"], sample["hubert"][:, ::2])
        with pytest.raises(ValueError, match=r"mask: expected \(B, T\) = \(1, 12\)"):
            sync(sample["idexp_lm3d"], sample["hubert"], torch.ones(1, 24))
        with pytest.raises(ValueError, match=r"mask: expected \(B, T\) = \(1, 12\), got list"):
            sync(sample["idexp_lm3d"], sample["hubert"], [True] * 12)
        with pytest.raises(ValueError, match="all 68 points"):
            sync(torch.randn(1, 12, 60), sample["hubert"])

    def test_other_features(self, sync):
        sample = collated((12,), width=1024)
        with pytest.raises(ValueError, match="looks like HuBERT large"):
            sync(sample["idexp_lm3d"], sample["hubert"])

    def test_only_padding(self):
        sync, sample = GeneFaceSync(loss_on()), collated((12,))
        assert sync(sample["idexp_lm3d"], sample["hubert"], torch.zeros(1, 12)).item() == 0

    @pytest.mark.parametrize("config", [UniSyncConfig(), UniSyncConfig(audio="hubert", visual="3dmm")])
    def test_experts(self, config):
        with pytest.raises(ValueError, match="expected a hubert-landmarks expert"):
            GeneFaceSync(UniSyncLoss(UniSyncExpert(config)))

    def test_a_name_in_place_of_a_loss(self):
        with pytest.raises(ValueError, match=r"got 'hubert-landmarks': use UniSyncLoss.from_pretrained"):
            GeneFaceSync("hubert-landmarks")
