import pytest
import torch
from torch import nn
from unisync_loss.adapters.wav2lip import SyncWeightSchedule, Wav2LipSync

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss


@pytest.fixture
def sync(expert):
    return Wav2LipSync(UniSyncLoss(expert))


class TinyGenerator(nn.Module):
    """Takes and gives what Wav2Lip's does: (B, 5, 1, 80, 16) and (B, 6, 5, H, W) to (B, 3, 5, H, W) in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.paint = nn.Conv2d(6, 3, 3, padding=1)
        self.listen = nn.Linear(80 * 16, 3)

    def forward(self, indiv_mels, x):
        batch, time = indiv_mels.shape[:2]
        frames = torch.cat([x[:, :, i] for i in range(time)])
        sound = torch.cat([indiv_mels[:, i] for i in range(time)]).flatten(1)
        made = torch.sigmoid(self.paint(frames) + self.listen(sound)[:, :, None, None])
        return torch.stack(made.split(batch), dim=2)


def test_the_loops_own_tensors(sync):
    generator = TinyGenerator()
    optimiser = torch.optim.Adam(generator.parameters(), 1e-3)
    x, gt = torch.rand(2, 6, 5, 96, 96), torch.rand(2, 3, 5, 96, 96)
    indiv_mels, mel = torch.rand(2, 5, 1, 80, 16) * 8 - 4, torch.rand(2, 1, 80, 16) * 8 - 4
    schedule = SyncWeightSchedule(0.03, ramp_steps=2)
    generator.train()
    for _ in range(2):
        optimiser.zero_grad()
        g = generator(indiv_mels, x)
        weight = schedule.step()
        loss = weight * sync(mel, g) + (1 - weight) * nn.functional.l1_loss(g, gt)
        loss.backward()
        optimiser.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.parameters())


def test_colour_order(sync):
    video, mel = torch.rand(2, 5, 3, 96, 96), torch.rand(2, 80, 16)
    bgr = video.flip(2).transpose(1, 2)
    assert torch.equal(sync(mel[:, None], bgr), sync.loss(video, mel))


def test_probability_of_each_sample(sync):
    mel, g = torch.rand(3, 1, 80, 16), torch.rand(3, 3, 5, 96, 96)
    terms = sync.terms(mel, g)
    assert terms.probability.shape == (3, 1)
    assert terms.loss.item() == pytest.approx(-terms.probability.log().mean().item(), rel=1e-5)
    assert terms.loss.item() == sync(mel, g).item()
    alone = torch.cat([sync.terms(mel[i : i + 1], g[i : i + 1]).probability for i in range(3)])
    assert torch.allclose(terms.probability, alone, atol=1e-5)


def test_stays_in_eval_mode_where_wav2lips_own_does_not(sync):
    mel, g = torch.rand(2, 1, 80, 16), torch.rand(2, 3, 5, 96, 96)
    before = sync(mel, g).item()
    sync.train()
    assert sync(mel, g).item() == sync.eval()(mel, g).item() == before


@pytest.mark.parametrize("size", [(96, 96), (288, 288), (128, 100)])
def test_any_size(sync, size):
    assert sync(torch.rand(1, 1, 80, 16), torch.rand(1, 3, 5, *size)).ndim == 0


def test_wrong_input(sync):
    with pytest.raises(ValueError, match=r"mel \(B, 1, 80, 16\) and g \(B, 3, 5, H, W\), got"):
        sync(torch.rand(1, 80, 16), torch.rand(1, 3, 5, 96, 96))
    for arguments in (None, torch.rand(1, 3, 5, 96, 96)), (torch.rand(1, 1, 80, 16), [1.0]):
        with pytest.raises(ValueError, match=r"got .*(NoneType|list)"):
            sync(*arguments)
    with pytest.raises(ValueError, match="mel-rgb"):
        Wav2LipSync(UniSyncLoss(UniSyncExpert(UniSyncConfig(audio="hubert", embedding=8))))
    with pytest.raises(ValueError, match=r"expected a UniSyncLoss, got 'mel-rgb': use UniSyncLoss.from_pretrained"):
        Wav2LipSync("mel-rgb")


class TestSchedule:
    def test_waits_then_rises_and_never_falls(self):
        schedule = SyncWeightSchedule(0.1, threshold=0.75, ramp_steps=4)
        assert [schedule.step() for _ in range(3)] == [0, 0, 0]
        schedule.update(0.9)
        assert schedule.step() == 0
        assert schedule.update(0.7) == 0
        schedule.update(2.0)
        assert [round(schedule.step(), 3) for _ in range(6)] == [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]

    def test_a_resumed_run_equals_an_undisturbed_one(self):
        def run(interrupt):
            schedule, weights = SyncWeightSchedule(0.1, threshold=0.75, ramp_steps=5), []
            for step in range(12):
                if step == 3:
                    schedule.update(0.5)
                if step == interrupt:
                    state = schedule.state_dict()
                    schedule = SyncWeightSchedule(0.1, threshold=0.75, ramp_steps=5)
                    schedule.load_state_dict(state)
                weights.append(schedule.step())
            return weights

        assert run(None) == run(5) == run(2) == run(11)

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="ramp_steps"):
            SyncWeightSchedule(ramp_steps=0)
        for options in ({"ramp_steps": 2.5}, {"weight": "0.03"}, {"weight": float("nan")}, {"threshold": True}):
            with pytest.raises(ValueError, match=f"{next(iter(options))}: expected a"):
                SyncWeightSchedule(**options)
