import copy
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.functional import sync_probability


@pytest.fixture
def loss(expert):
    return UniSyncLoss(expert)


@pytest.fixture
def batch():
    return torch.rand(2, 9, 3, 48, 48), torch.randn(2, 9 * 640) / 10


class Generator(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.paint = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.sync = loss

    def forward(self, video, audio):
        made = torch.sigmoid(self.norm(self.paint(video.flatten(0, 1)))).unflatten(0, video.shape[:2])
        return self.sync(made, audio)


def snapshot(expert):
    return {key: value.clone() for key, value in expert.state_dict().items()}


def assert_frozen(loss, before):
    expert = loss.expert
    assert not any(module.training for module in expert.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in expert.parameters())
    assert all(torch.equal(value, before[key]) for key, value in expert.state_dict().items())


def train_a_little(generator, batch):
    optimiser = torch.optim.AdamW(generator.parameters(), 0.1, weight_decay=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        generator(*batch).backward()
        optimiser.step()


def test_mean_of_minus_log_p(loss, batch):
    with torch.no_grad():
        p = loss.expert(*batch)
    terms = loss(*batch, return_terms=True)
    assert torch.allclose(terms.probability, p, atol=1e-6)
    assert terms.loss.item() == pytest.approx((-p.log()).mean().item(), rel=1e-5)
    assert loss(*batch).ndim == 0


def test_real_frames_bound_what_is_asked(loss, batch):
    video, audio = batch
    torch.manual_seed(3)
    real = torch.rand_like(video)
    video.requires_grad_()
    terms = loss(video, audio, return_terms=True)
    higher = loss.score(real, audio, per_window=True)
    missing = (higher.log() - terms.probability.log()).clamp(min=0)
    assert 0 < (missing > 0).sum() < missing.numel()  # windows of both kinds
    anchored = loss(video, audio, video_real=real)
    assert anchored.item() == pytest.approx(missing.mean().item(), rel=1e-4)
    # the gradient is that of the windows which score lower than the real ones
    (ours,) = torch.autograd.grad(anchored, video)
    (expected,) = torch.autograd.grad(
        loss(video, audio, weights=(missing > 0).float(), reduction="sum") / missing.numel(), video
    )
    assert torch.allclose(ours, expected, atol=1e-7)


def test_real_frames_themselves_cost_nothing(loss, batch):
    video, audio = batch
    video.requires_grad_()
    real = video.detach().clone().requires_grad_()
    value = loss(video, audio, video_real=real)
    value.backward()
    assert value == 0
    assert video.grad.abs().max() == 0
    assert real.grad is None


def test_real_frames_are_chosen_masked_and_flattened_like_the_others(loss, batch):
    video, audio = batch
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 7:] = False
    real = video.clone()
    real[1, 7:] = torch.nan  # padding may hold anything
    assert loss(video, audio, video_real=real, mask=mask, windows=2) == 0
    flat = (x.flatten(0, 1) for x in (video, video.clone()))
    assert loss(next(flat), audio, video_real=next(flat), frames=9) == 0
    real[0, 0] = torch.nan
    assert loss(video, audio, video_real=real, mask=mask).isnan()


def test_real_frames_of_another_shape(loss, batch):
    with pytest.raises(ValueError, match=r"video_real: expected \(2, 9, 3, 48, 48\), like video, got \(1, 9"):
        loss(*batch, video_real=batch[0][:1])


def test_gradient_reaches_the_video_and_nothing_else(loss, batch):
    video, audio = (x.requires_grad_() for x in batch)
    loss(video, audio).backward()
    assert video.grad.isfinite().all()
    assert (video.grad.abs().sum((1, 2, 3, 4)) > 0).all()
    assert audio.grad is None
    assert all(parameter.grad is None for parameter in loss.expert.parameters())


def test_gradient_is_that_of_the_value(loss, batch):
    video, audio = batch[0][:1].double(), batch[1][:1].double()
    loss = loss.double()
    video.requires_grad_()
    with torch.no_grad():
        assert (loss.expert(video, audio) > 0.05).all()

    def exact(x):
        return sync_probability(loss.expert.encode_audio(audio, 9), loss.expert.encode_visual(x)).log().mean().neg()

    (ours,) = torch.autograd.grad(loss(video, audio), video)
    (true,) = torch.autograd.grad(exact(video), video)
    # the surrogate bends the direction a little where ReLU cuts; it must not turn it
    assert torch.cosine_similarity(ours.flatten(), true.flatten(), dim=0) > 0.9


@pytest.mark.parametrize(
    "act", ["train", "requires_grad", "deepcopy", "to", "double", "half", "bfloat16", "zero_grad", "apply"]
)
def test_frozen_for_good(loss, batch, act):
    generator = Generator(loss)
    before = snapshot(loss.expert)
    if act == "train":
        generator.eval()
        generator.train()
        loss.train(True)
    elif act == "requires_grad":
        generator.requires_grad_(True)
        loss.requires_grad_(True)
    elif act == "deepcopy":
        generator = copy.deepcopy(generator).train()
        assert generator.sync.expert is not loss.expert
    elif act == "to":
        generator.to("cpu", torch.float32).train()
    elif act == "double":
        generator.double().float().train()
    elif act in ("half", "bfloat16"):
        getattr(generator, act)()
        assert_frozen(loss, before)  # not even rounded
        generator.float()
    elif act == "zero_grad":
        generator.zero_grad(set_to_none=False)
    else:
        generator.apply(lambda module: module.train())
    train_a_little(generator, batch)
    assert_frozen(generator.sync, before)


def test_frozen_where_the_expert_is_a_submodule_too(loss, batch):
    generator = Generator(loss)
    generator.expert = loss.expert
    before = snapshot(loss.expert)
    generator.train().requires_grad_(True)
    assert loss.expert.training
    train_a_little(generator, batch)
    assert_frozen(loss, before)


def test_frozen_under_autocast(loss, batch):
    generator = Generator(loss).train()
    before = snapshot(loss.expert)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = generator(*batch)
    value.backward()
    assert value.dtype == torch.float32
    assert abs(value.item() - generator(*batch).item()) < 0.1
    assert_frozen(loss, before)


@pytest.mark.parametrize(("name", "shape"), [("mel-rgb-robust", (3, 64, 64)), ("mel-landmarks", (68, 2))])
def test_towers_in_bfloat16_have_the_gradient_of_float32(name, shape):
    loss, video, mel = (
        UniSyncLoss.from_pretrained(name),
        torch.rand(2, 9, *shape, requires_grad=True),
        torch.rand(2, 80, 28),
    )
    computed = set()
    for part in (loss.expert.visual_tower.trunk[0], loss.expert.audio_tower.network[0].conv):
        part.register_forward_hook(lambda module, inputs, output: computed.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(video, mel)
    assert computed == {torch.bfloat16}
    (ours,) = torch.autograd.grad(value, video)
    exact = loss(video, mel)
    (expected,) = torch.autograd.grad(exact, video)
    assert value.dtype == ours.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), abs=0.01)
    assert ours.isfinite().all()
    assert torch.cosine_similarity(ours.flatten(), expected.flatten(), dim=0) > 0.98


def test_frozen_under_ddp(loss, batch, tmp_path):
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        generator = DistributedDataParallel(Generator(loss)).train()
        before = snapshot(loss.expert)
        train_a_little(generator, batch)
        assert_frozen(loss, before)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("architecture", ["small", "paper"])
@pytest.mark.parametrize("pair", [("mel", "rgb"), ("hubert", "landmarks"), ("mel", "parsing"), ("whisper", "3dmm")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_any_precision(architecture, pair, dtype):
    audio, visual = pair
    shapes = {"rgb": (3, 32, 32), "parsing": (6, 32, 32), "landmarks": (68, 2), "3dmm": (64,)}
    config = UniSyncConfig(audio=audio, visual=visual, architecture=architecture, embedding=8)
    loss = UniSyncLoss(UniSyncExpert(config))
    video = torch.rand(1, 5, *shapes[visual])
    video = video.softmax(2) if visual == "parsing" else video
    features = torch.rand(1, 80, 16) if audio == "mel" else torch.randn(1, 10, config.audio_features)
    low = video.to(dtype).requires_grad_()
    value = loss(low, features.to(dtype))
    value.backward()
    assert value.dtype == torch.float32
    assert low.grad.dtype == dtype
    assert low.grad.isfinite().all()
    assert value.item() == pytest.approx(loss(video, features).item(), abs=0.05)


def test_points_in_pixels_do_not_overflow_in_half_precision():
    loss = UniSyncLoss(UniSyncExpert(UniSyncConfig(visual="landmarks", embedding=8)))
    points, mel = 512 * torch.rand(1, 5, 68, 2), torch.rand(1, 80, 16)
    assert loss(points.half(), mel).item() == pytest.approx(loss(points, mel).item(), abs=0.05)


def test_a_waveform_in_half_precision(loss, batch):
    assert loss(batch[0], batch[1].half()).item() == pytest.approx(loss(*batch).item(), abs=0.05)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_a_generator_in_half_precision_keeps_a_float32_expert(loss, batch, cast):
    before = loss(*batch).item()
    getattr(nn.ModuleDict({"sync": loss}), cast)()
    assert all(parameter.dtype == torch.float32 for parameter in loss.expert.parameters())
    assert loss(*batch).item() == before


def test_moves_with_its_parent(loss, batch):
    generator = Generator(loss).double()
    assert all(p.dtype == torch.float64 for p in loss.expert.parameters())
    assert generator(batch[0].double(), batch[1].double()).dtype == torch.float64


def test_no_part_of_a_generators_checkpoint(loss, expert):
    generator = Generator(loss)
    assert not [key for key in generator.state_dict() if "expert" in key]
    assert not [name for name, _ in generator.named_parameters() if "expert" in name]
    other = Generator(UniSyncLoss(UniSyncExpert(expert.config)))
    other.load_state_dict(generator.state_dict(), strict=True)


def test_dead_windows_have_a_gradient(loss, batch, monkeypatch):
    audio_embedding = torch.randn(2, 5, 16)
    monkeypatch.setattr(loss.expert, "encode_audio", lambda *_, **__: audio_embedding)
    visual_embedding = -audio_embedding.clone().requires_grad_()
    visual_embedding.retain_grad()
    monkeypatch.setattr(loss.expert, "encode_prepared", lambda *_, **__: visual_embedding)
    terms = loss(*batch, return_terms=True)
    terms.loss.backward()
    assert terms.probability.max() == 0
    assert terms.loss.item() == pytest.approx(5.0, abs=0.01)
    assert (visual_embedding.grad.norm(dim=-1) > 1e-3).all()
    assert visual_embedding.grad.norm(dim=-1).max() < 150


class TestWindows:
    def test_batch_is_the_mean_of_its_clips(self, loss, batch):
        single = [loss(batch[0][i : i + 1], batch[1][i : i + 1]) for i in range(2)]
        assert loss(*batch).item() == pytest.approx(sum(single).item() / 2, rel=1e-5)
        assert torch.allclose(loss(*batch, reduction="none"), torch.stack(single), atol=1e-5)
        assert loss(*batch, reduction="sum").item() == pytest.approx(loss(*batch).item() * 10, rel=1e-5)

    def test_frame_mask_equals_a_shorter_clip(self, loss, batch):
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[:, 7:] = False
        # the audio of the window that ends at frame 6 ends there, too: the shorter clip differs in STFT edges only
        mel = loss.expert.audio_input(batch[1]).transpose(1, 2)
        short = loss(batch[0][:, :7], mel[:, :, :23])
        assert loss(batch[0], mel, mask=mask).item() == pytest.approx(short.item(), rel=1e-4)

    @pytest.mark.parametrize("visual", ["landmarks", "3dmm", "parsing"])
    def test_masked_frames_are_no_part_of_a_face(self, visual):
        """Experts on points subtract the mean over frames, which padding must not change."""
        expert = UniSyncLoss(UniSyncExpert(UniSyncConfig(visual=visual, embedding=8)))
        video = {
            "landmarks": torch.rand(2, 14, 68, 2),
            "3dmm": torch.randn(2, 14, 64),
            "parsing": (9 * torch.randn(2, 14, 6, 32, 32)).softmax(2),
        }[visual]
        mel = torch.rand(2, 80, 45)
        mask = torch.arange(14)[None] < torch.tensor([[14], [7]])
        short = expert(video[1:, :7], mel[1:, :, :22])
        long = expert(video[:1], mel[:1])
        beside = 0.5 if visual == "parsing" else 50.0
        padded = video.where(mask.view(2, 14, *[1] * (video.ndim - 2)), beside)
        assert expert(padded, mel, mask=mask, reduction="none").tolist() == pytest.approx(
            [long.item(), short.item()], rel=1e-4
        )

    def test_window_mask_equals_weights(self, loss, batch):
        mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()
        assert loss(*batch, mask=mask).item() == pytest.approx(loss(*batch, weights=mask.float()).item(), rel=1e-6)
        terms = loss(*batch, mask=mask, weights=torch.full((2, 5), 2.0), return_terms=True)
        assert terms.weights.tolist() == (2 * mask.float()).tolist()

    def test_frame_mask_with_stride(self, loss, batch):
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[0, 3] = False  # windows at 0 and 2 see it, that at 4 does not
        assert loss(*batch, mask=mask, stride=2, return_terms=True).weights.tolist() == [[0, 0, 1], [1, 1, 1]]

    def test_masked_frames_get_no_gradient(self, loss, batch):
        video = batch[0].requires_grad_()
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[0] = False
        loss(video, batch[1], mask=mask).backward()
        assert video.grad[0].abs().max() == 0
        assert video.grad[1].abs().max() > 0

    def test_shortest_clip(self, loss):
        assert math.isfinite(loss(torch.rand(1, 5, 3, 96, 96), torch.randn(1, 3200) / 10).item())

    def test_features_equal_the_waveform(self, loss, batch):
        mel = loss.expert.audio_input(batch[1]).transpose(1, 2)
        assert loss(batch[0], mel).item() == pytest.approx(loss(*batch).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": torch.rand(3, 5760)}, r"batch sizes 2 \(video\) and 3 \(audio\)"),
        ({"audio": torch.rand(5760)}, r"audio: expected a batch .*got \(5760,\)"),
        ({"audio": torch.rand(2, 3200)}, "expected about"),
        ({"video": torch.rand(2, 4, 3, 48, 48)}, "at least T = 5"),
        ({"video": torch.rand(2, 3, 9, 48, 48)}, r"\(B, T, 3, H, W\).*got \(2, 3, 9, 48, 48\)"),
        ({"video": torch.rand(0, 9, 3, 48, 48)}, r"video: expected a batch .*got \(0, 9, 3, 48, 48\)"),
        ({"video": [torch.rand(9, 3, 48, 48)]}, "video: expected a batch .*got list"),
        ({"video": torch.rand(2, 9, 3, 48, 48, device="meta")}, "the loss's device cpu, got meta and cpu"),
        ({"video": 255 * torch.rand(2, 9, 3, 48, 48)}, r"expected rgb in \[0, 1\], got values in"),
        ({"video": 2 * torch.rand(2, 9, 3, 48, 48) - 1}, r"expected rgb in \[0, 1\], got values in \[-"),
        ({"video": torch.full((2, 9, 3, 48, 48), torch.nan)}, "video: expected finite values"),
        ({"audio": torch.full((2, 5760), torch.nan)}, "audio: expected finite values"),
        ({"weights": -torch.ones(2, 5)}, "weights: expected 0 or more"),
        ({"weights": torch.full((2,), torch.nan)}, "weights: expected finite values"),
        ({"video": torch.zeros(2, 9, 3, 48, 48, dtype=torch.uint8)}, "floating point"),
        ({"mask": torch.ones(2, 3)}, r"\(B, T\) = \(2, 9\) or \(B, W\) = \(2, 5\), got \(2, 3\)"),
        ({"mask": [[True] * 9] * 2}, r"mask: expected \(B, T\) = \(2, 9\).*got list"),
        ({"weights": torch.ones(2, 9)}, r"weights: expected \(B, W\) = \(2, 5\).*got \(2, 9\)"),
        ({"stride": 0}, "stride: expected at least 1"),
        ({"stride": torch.ones(2, 3)}, r"stride: expected a whole number, got \(2, 3\) torch.float32"),
        ({"reduction": "max"}, "reduction: expected"),
        ({"reduction": np.zeros(2)}, "reduction: expected .*got ndarray"),
        ({"return_terms": torch.ones(2)}, "return_terms: expected True or False"),
        ({"windows": True}, "windows: expected a whole number, got True"),
        ({"grad_frames": "3"}, "grad_frames: expected a whole number, got '3'"),
        ({"frames": torch.tensor(True)}, r"frames: expected a whole number, got tensor\(True\)"),
    ],
)
def test_wrong_input(loss, batch, change, message):
    arguments = {"video": batch[0], "audio": batch[1], **change}
    with pytest.raises(ValueError, match=message):
        loss(**arguments)


def test_a_refused_range_is_refused_again(loss, batch):
    for _ in range(2):
        with pytest.raises(ValueError, match="expected rgb in"):
            loss(255 * batch[0], batch[1])
    loss(*batch)


def test_slight_excess_is_said_once(loss, batch, caplog):
    video = batch[0] * 1.03
    loss(video, batch[1])
    loss(video, batch[1])
    assert caplog.text.count("expected rgb in [0, 1]") == 1


def test_a_range_that_changes_later_is_refused(loss, batch):
    for _ in range(3):
        loss(*batch)
    loss(255 * batch[0], batch[1])  # between two checks
    loss._calls.passed = 1000
    with pytest.raises(ValueError, match="expected rgb in"):
        loss(255 * batch[0], batch[1])


@pytest.fixture(params=["small", "paper"])
def unchecked(request):
    """Losses after their first calls, by visual representation."""
    losses = {}
    for visual in ("rgb", "parsing", "landmarks", "3dmm"):
        config = UniSyncConfig(visual=visual, architecture=request.param, embedding=8)
        losses[visual] = UniSyncLoss(UniSyncExpert(config))
        losses[visual]._calls.passed = losses[visual]._audio_calls.passed = 3
    return losses


VIDEOS = {
    "rgb": lambda: torch.rand(2, 6, 3, 40, 40),
    "parsing": lambda: torch.randn(2, 6, 6, 40, 40).softmax(2),
    "landmarks": lambda: torch.rand(2, 6, 68, 2),
    "3dmm": lambda: torch.randn(2, 6, 64),
}


@pytest.mark.parametrize("visual", list(VIDEOS))
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 5), (0, 2)])
def test_a_bad_value_is_never_a_finite_loss_nor_a_crash(unchecked, visual, bad, place):
    video, audio = VIDEOS[visual](), torch.randn(2, 6 * 640) / 10
    video[place].view(-1)[0] = bad  # the first pixel: outside of the mouth, in the upper half
    video.requires_grad_()
    value = unchecked[visual](video, audio, reduction="none")
    value.sum().backward()
    assert value.isnan().tolist() == [True, False]
    assert video.grad[0].isnan().any()
    assert video.grad[1].isfinite().all()


@pytest.mark.parametrize("features", [False, True])
def test_a_bad_sample_is_never_a_finite_loss(unchecked, features):
    loss, video = unchecked["rgb"], torch.rand(2, 6, 3, 40, 40)
    audio = torch.rand(2, 80, 20) if features else torch.randn(2, 6 * 640) / 10
    audio.view(2, -1)[0, -1] = torch.inf
    assert loss(video, audio, reduction="none").isnan().tolist() == [True, False]


def test_bad_weights_are_never_a_finite_loss(unchecked):
    loss, video, audio = unchecked["rgb"], torch.rand(2, 6, 3, 40, 40), torch.randn(2, 6 * 640) / 10
    for bad in (torch.nan, -1.0):
        assert loss(video, audio, weights=torch.tensor([1.0, bad])).isnan()


@pytest.mark.parametrize("visual", list(VIDEOS))
def test_padding_may_be_nan(unchecked, visual):
    video, audio = VIDEOS[visual](), torch.randn(2, 6 * 640) / 10
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 5] = False
    loss = unchecked[visual]
    loss._calls.passed = 0
    blank = loss(video.where(mask.view(2, 6, *[1] * (video.ndim - 2)), 0), audio, mask=mask)
    video[0, 5] = torch.nan
    video.requires_grad_()
    value = loss(video, audio, mask=mask)
    value.backward()
    assert value.item() == blank.item()
    assert video.grad.isfinite().all()


def test_weights_per_clip(loss, batch):
    each = loss(*batch, reduction="none")
    assert loss(*batch, weights=torch.tensor([1.0, 3.0])).item() == pytest.approx((each[0] + 3 * each[1]).item() / 4)


class TestGenerators:
    """Tensors as generators have them score as plain ones do."""

    def test_range_order_and_flattened_frames(self, expert, batch):
        video, audio = batch
        mel = expert.audio_input(audio).transpose(1, 2)
        plain = UniSyncLoss(expert)(video, audio)
        flat = (2 * video - 1).flip(2).flatten(0, 1).requires_grad_()
        loss = UniSyncLoss(expert, value_range=(-1, 1), channel_order="bgr")
        value = loss(flat, mel[:, None], frames=9)
        value.backward()
        assert value.item() == pytest.approx(plain.item(), rel=1e-4)
        assert flat.grad.isfinite().all()
        assert flat.grad.abs().sum() > 0

    def test_overshoot_is_clamped_and_another_range_refused(self, expert, batch):
        loss = UniSyncLoss(expert, value_range=(-1, 1))
        loss(2.6 * batch[0] - 1.3, batch[1])
        with pytest.raises(ValueError, match=r"expected rgb in \[-1, 1\], got values in"):
            loss(255 * batch[0], batch[1])

    def test_half_of_the_range_is_doubtful(self, expert, batch, caplog):
        UniSyncLoss(expert, value_range=(-1, 1))(*batch)
        assert "expected rgb in [-1, 1], got values in [" in caplog.text

    def test_boxes(self, loss):
        video, audio = torch.rand(1, 5, 3, 320, 320), torch.randn(1, 3200) / 10
        picture = torch.nn.functional.pad(video, (40, 80, 10, 30))
        box = torch.tensor([[40, 10, 360, 330]])
        shrunk = torch.nn.functional.avg_pool2d(video[0], 2)[None]
        assert loss(picture, audio, boxes=box).item() == pytest.approx(loss(shrunk, audio).item(), abs=1e-3)
        with pytest.raises(ValueError, match="boxes: expected left < right"):
            loss(picture, audio, boxes=box.flip(1))

    @pytest.mark.parametrize("name", ["mel-rgb", torch.zeros(3), None])
    def test_a_name_in_place_of_an_expert(self, name):
        with pytest.raises(ValueError, match="from_pretrained" if name == "mel-rgb" else "expected a UniSyncExpert"):
            UniSyncLoss(name)


class TestAudioEmbedding:
    @pytest.mark.parametrize("stride", [1, 2, 5])
    def test_equals_the_audio(self, loss, batch, stride):
        embedding = loss.encode_audio(batch[1], 9)
        value = loss(batch[0], audio_embedding=embedding, stride=stride)
        assert value.item() == pytest.approx(loss(*batch, stride=stride).item(), rel=1e-5)

    def test_costs_nothing_at_the_call(self, loss, batch, monkeypatch):
        embedding = loss.encode_audio(batch[1], 9)
        monkeypatch.setattr(loss.expert.audio_tower, "forward", None)
        loss(batch[0], audio_embedding=embedding)

    def test_bad_values(self, loss, batch):
        with pytest.raises(ValueError, match="audio: expected finite"):
            loss.encode_audio(batch[1] / 0, 9)
        loss._audio_calls.passed = 3
        batch[1][0, 7] = torch.nan
        embedding = loss.encode_audio(batch[1], 9)
        assert loss(batch[0], audio_embedding=embedding, reduction="none").isnan().tolist() == [True, False]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"audio_embedding": torch.rand(2, 4, 16)}, r"\(B, T - 4, D\) = \(2, 5, 16\).*got \(2, 4, 16\)"),
            ({"audio_embedding": torch.rand(3, 5, 16)}, "batch sizes 2 .video. and 3 .audio_embedding."),
            ({}, "either audio or audio_embedding"),
            (
                {"audio": torch.rand(2, 5760), "audio_embedding": torch.rand(2, 5, 16)},
                "either audio or audio_embedding",
            ),
        ],
    )
    def test_wrong(self, loss, batch, change, message):
        with pytest.raises(ValueError, match=message):
            loss(batch[0], **change)


class TestChosenWindows:
    @pytest.mark.parametrize("visual", list(VIDEOS))
    @pytest.mark.parametrize("architecture", ["small", "paper"])
    def test_they_are_some_of_all(self, visual, architecture):
        config = UniSyncConfig(visual=visual, architecture=architecture, embedding=8)
        loss, video, audio = UniSyncLoss(UniSyncExpert(config)), VIDEOS[visual](), torch.randn(2, 3840) / 10
        every = loss(video, audio, return_terms=True)
        for _ in range(4):
            terms = loss(video, audio, windows=1, return_terms=True)
            gap = (terms.probability - every.probability).abs()
            assert terms.probability.shape == terms.weights.shape == (2, 1)
            assert gap.amax(0).min() < 1e-4
        assert loss(video, audio, windows=9).item() == pytest.approx(every.loss.item(), rel=1e-4)

    def test_every_window_is_drawn(self, loss):
        video, audio = torch.rand(1, 9, 3, 24, 24), torch.randn(1, 5760) / 10
        every = loss(video, audio, return_terms=True).probability[0]
        drawn = [loss(video, audio, windows=2, return_terms=True).probability[0] for _ in range(15)]
        places = torch.stack([(every - p[:, None]).abs().argmin(1) for p in drawn])
        assert (places[:, 0] < places[:, 1]).all()
        assert set(places.flatten().tolist()) == {0, 1, 2, 3, 4}

    @pytest.mark.parametrize(("windows", "encoded"), [(1, 5), (2, 9), (4, 9)])
    def test_no_more_frames_are_encoded_than_there_are(self, loss, batch, windows, encoded):
        frames = []
        loss.expert.visual_tower.stem.register_forward_hook(lambda module, inputs, output: frames.append(len(output)))
        loss(*batch, windows=windows)
        assert frames == [2 * encoded]

    def test_none_is_refused(self, loss, batch):
        with pytest.raises(ValueError, match="windows: expected at least 1, got 0"):
            loss(*batch, windows=0)


def test_samples_of_one_audio_are_scored_with_one_embedding(loss, batch):
    reward, waveform = loss.score, batch[1][:1]
    samples = torch.rand(3, *batch[0].shape[1:])
    one_by_one = torch.cat([reward(sample[None], waveform) for sample in samples])
    embedding = loss.encode_audio(waveform, samples.shape[1]).expand(3, -1, -1)
    assert torch.allclose(reward(samples, waveform.expand(3, -1)), one_by_one, atol=1e-6)
    assert torch.allclose(reward(samples, audio_embedding=embedding), one_by_one, atol=1e-6)


def test_score_is_a_reward_without_gradient(loss, batch):
    video = batch[0].requires_grad_()
    p = loss.expert(*batch)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 6:] = False
    assert not loss.score(video, batch[1]).requires_grad
    assert torch.allclose(loss.score(video, batch[1]), p.mean(1), atol=1e-6)
    assert torch.allclose(loss.score(video, batch[1], per_window=True), p, atol=1e-6)
    assert loss.score(video, batch[1], mask=mask)[0].item() == pytest.approx(p[0, :2].mean().item(), abs=1e-6)


def test_calibrated_reward(loss, batch):
    with pytest.raises(ValueError, match="expected a calibrated expert"):
        loss.score(*batch, calibrated=True)
    loss.expert.config = replace(loss.expert.config, temperature=0.1, midpoint=0.45)
    expected = torch.sigmoid((loss.expert(*batch) - 0.45) / 0.1)
    assert torch.allclose(loss.score(*batch, calibrated=True, per_window=True), expected, atol=1e-5)
    assert torch.allclose(loss.score(*batch, calibrated=True), expected.mean(1), atol=1e-5)


def test_data_parallel_is_refused_with_the_remedy(loss):
    with pytest.raises(ValueError, match=r"expected no nn.DataParallel.*DistributedDataParallel"):
        loss._replicate_for_data_parallel()  # as nn.DataParallel does, which needs two GPUs


class TestGradFrames:
    @pytest.mark.parametrize("visual", list(VIDEOS))
    @pytest.mark.parametrize("architecture", ["small", "paper"])
    @pytest.mark.parametrize("windows", [None, 1])
    def test_the_gradient_of_some_frames_and_the_value_of_all(self, visual, architecture, windows):
        config = UniSyncConfig(visual=visual, architecture=architecture, embedding=8)
        loss, video, audio = UniSyncLoss(UniSyncExpert(config)), VIDEOS[visual](), torch.randn(2, 3840) / 10
        video.requires_grad_()
        results = []
        for frames in (None, 2, range(3, 6)):
            torch.manual_seed(5)  # the same window
            value = loss(video, audio, windows=windows, grad_frames=frames)
            results.append((value.item(), torch.autograd.grad(value, video)[0]))
        (whole, expected), drawn, given = results
        for (value, gradient), count in ((drawn, 2), (given, 3)):
            assert value == pytest.approx(whole, rel=1e-4)
            reached = gradient.flatten(2).abs().sum((0, 2)) > 0
            assert reached.sum() <= count
            assert torch.allclose(gradient[:, reached], expected[:, reached], atol=1e-5 * expected.abs().max().item())
        if windows is None:
            assert (given[1].flatten(2).abs().sum((0, 2)) > 0).tolist() == [False] * 3 + [True] * 3

    def test_the_other_frames_need_no_backward_pass(self, loss, batch):
        encoded = []
        loss.expert.visual_tower.stem.register_forward_hook(
            lambda module, inputs, output: encoded.append((len(output), output.requires_grad))
        )
        loss(batch[0].requires_grad_(), batch[1], grad_frames=4)
        assert encoded == [(8, True), (10, False)]


@pytest.mark.parametrize("visual", list(VIDEOS))
def test_every_part_runs_once_a_step(visual):
    """The representation of each side is not computed anew for a term or a mask."""
    loss, video = UniSyncLoss(UniSyncExpert(UniSyncConfig(visual=visual, embedding=8))), VIDEOS[visual]()
    loss._calls.passed = 3  # the check for a face, at the first calls, is another thing
    expert, calls = loss.expert, []
    tower = expert.visual_tower
    parts = {"audio_input": expert.audio_input, "audio": expert.audio_tower, "visual": tower, "stem": tower.stem}
    parts |= {"visual_input": expert.visual_input, "mel": expert.audio_input.spectrogram}
    parts |= {"aligner": tower.aligner} if tower.aligner else {}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    options = {"mask": torch.ones(2, 6, dtype=torch.bool), "weights": torch.ones(2), "return_terms": True}
    loss(video.requires_grad_(), torch.randn(2, 3840) / 10, **options).loss.backward()
    assert sorted(calls) == sorted(parts)
    calls.clear()
    loss(video, torch.randn(2, 3840) / 10, video_real=video, **options)
    twice = [name for name in parts if name not in ("audio_input", "audio", "mel")]  # there are two videos
    assert sorted(calls) == sorted([*parts, *twice])
