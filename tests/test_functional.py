import math

import pytest
import torch
from torch.autograd import gradcheck

from unisync_loss.functional import (
    EPSILON,
    bounded_weight,
    calibrated_probability,
    margin_loss,
    margin_plateau,
    offset_matrix,
    reduce,
    relu_cosine,
    straight_through_clamp,
    sync_probability,
)


class TestSyncProbability:
    def test_closed_forms(self):
        a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0], [1.0, 0.0, -5.0], [3.0, 4.0, 0.0]])
        v = torch.tensor([[2.0, 4.0, 6.0], [0.0, 1.0, 0.0], [1.0, -9.0, -1.0], [4.0, 3.0, -2.0]])
        assert torch.allclose(sync_probability(a, v), torch.tensor([1.0, 0.0, 1.0, 24 / 25]), atol=1e-6)

    def test_zero_embedding_gives_zero_not_nan(self):
        assert sync_probability(-torch.ones(1, 4), torch.ones(1, 4)).item() == 0

    def test_unrelated_gaussians_have_the_cosine_of_the_orthant(self):
        # E cos of rectified Gaussians in high dimension is 1/pi = 0.3183
        p = sync_probability(torch.randn(2000, 512), torch.randn(2000, 512))
        assert abs(p.mean().item() - 1 / math.pi) < 0.003

    def test_never_above_one(self):
        a = torch.randn(20_000, 64)
        assert (relu_cosine(a, a) > 1).any()
        assert sync_probability(a, a).max() <= 1

    def test_float32_under_autocast(self):
        a = torch.randn(4, 64).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            p = sync_probability(a, a)
        assert p.dtype == torch.float32

    @pytest.mark.parametrize("surrogate", [False, True])
    def test_gradcheck_away_from_the_kink(self, surrogate):
        a = (torch.rand(3, 6, dtype=torch.float64) + 0.1).requires_grad_()
        v = (torch.rand(3, 6, dtype=torch.float64) + 0.1).requires_grad_()
        assert gradcheck(lambda x, y: sync_probability(x, y, surrogate=surrogate), (a, v))

    def test_surrogate_has_the_same_value_and_a_gradient_where_supports_are_disjoint(self):
        a = torch.tensor([[1.0, 2.0, -1.0, -2.0]])
        values, norms = [], []
        for surrogate in (False, True):
            v = torch.tensor([[-1.0, -2.0, 1.0, 2.0]], requires_grad=True)
            p = sync_probability(a, v, surrogate=surrogate)
            margin_loss(p, torch.ones(())).sum().backward()
            values.append(p.item())
            norms.append(v.grad.norm().item())
        assert values[0] == values[1] == 0
        assert norms[0] == 0
        assert norms[1] > 0

    def test_surrogate_leaves_the_dead_zone(self):
        a, ends = torch.randn(1, 64), []
        for surrogate in (False, True):
            v = (-a.abs() * a.sign()).clone().requires_grad_()
            optimiser = torch.optim.Adam([v], 0.05)
            for _ in range(300):
                optimiser.zero_grad()
                p = straight_through_clamp(sync_probability(a, v, surrogate=surrogate), 0.0067, 1)  # as the loss does
                (-p.log()).sum().backward()
                optimiser.step()
            ends.append(sync_probability(a, v).item())
        assert ends[0] == 0
        assert ends[1] > 0.5


class TestMarginLoss:
    @pytest.mark.parametrize(
        ("margin", "expected"),
        [
            (0.0, (0.693, 1.609, 2.996)),
            (0.1, (0.511, 1.204, 1.897)),
            (0.3, (0.223, 0.693, 1.050)),
            (0.7, (0.0, 0.105, 0.288)),
        ],
    )
    def test_negatives_of_equation_1(self, margin, expected):
        loss = margin_loss(torch.tensor([0.5, 0.8, 0.95]), torch.zeros(3), margin)
        assert torch.allclose(loss, torch.tensor(expected), atol=6e-4)

    def test_positives_have_no_margin(self):
        loss = margin_loss(torch.tensor([0.5, 1.0]), torch.ones(2), torch.tensor([0.3, 0.7]))
        assert torch.allclose(loss, torch.tensor([math.log(2), 0.0]), atol=1e-6)

    def test_bounds(self):
        assert margin_loss(torch.tensor(0.0), torch.tensor(1.0)).item() == pytest.approx(-math.log(EPSILON), rel=1e-4)
        assert margin_loss(torch.tensor(1.0), torch.tensor(0.0), 0.3).item() == pytest.approx(-math.log(0.3), rel=1e-4)

    def test_margin_of_each_pair(self):
        loss = margin_loss(torch.full((2,), 0.8), torch.zeros(2), torch.tensor([0.1, 0.3]))
        assert torch.allclose(loss, torch.tensor([1.204, 0.693]), atol=6e-4)

    def test_gradcheck(self):
        p = torch.tensor([0.2, 0.45, 0.9], dtype=torch.float64, requires_grad=True)
        assert gradcheck(lambda x: margin_loss(x, torch.tensor([1.0, 0.0, 0.0]), 0.3), (p,))

    @pytest.mark.parametrize(
        ("margins", "share", "plateau"),
        [((0, 0), 0.2, 0.6931), ((0.1, 0.3), 0.2, 0.5664), ((0.3, 0.7), 0.2, 0.3827), ((0.3, 0.3), 0.0, 0.4308)],
    )
    def test_plateau(self, margins, share, plateau):
        assert margin_plateau(*margins, share) == pytest.approx(plateau, abs=2e-4)


class TestOffsetMatrix:
    @pytest.mark.parametrize("offset", [-3, 0, 4])
    def test_shifted_audio_moves_the_maximum(self, offset):
        events = torch.randn(1, 60, 32)
        visual = events[:, 20:40]
        audio = events[:, 20 - offset : 40 - offset]  # the event at frame w is in the audio at w + offset: late
        table = offset_matrix(audio, visual, 6)
        assert table.shape == (1, 20, 13)
        assert table.nanmean(1).argmax().item() - 6 == offset

    @pytest.mark.parametrize("wrong", [-1, 2.5, True, torch.ones(2)])
    def test_no_offset(self, wrong):
        with pytest.raises(ValueError, match="max_offset: expected"):
            offset_matrix(torch.rand(1, 9, 4), torch.rand(1, 9, 4), wrong)

    def test_missing_audio_is_nan(self):
        table = offset_matrix(torch.randn(2, 5, 8), torch.randn(2, 5, 8), 2)
        assert table[:, 0, :2].isnan().all()
        assert table[:, 4, 3:].isnan().all()
        assert not table[:, 2].isnan().any()

    def test_middle_is_the_probability(self):
        a, v = torch.randn(2, 7, 8), torch.randn(2, 7, 8)
        assert torch.allclose(offset_matrix(a, v, 3)[..., 3], sync_probability(a, v), atol=1e-6)


class TestReduce:
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0]])

    def test_modes(self):
        assert reduce(self.values).item() == 4
        assert reduce(self.values, reduction="sum").item() == 16
        assert reduce(self.values, reduction="none").tolist() == [2, 6]

    def test_weights(self):
        weights = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        assert reduce(self.values, weights).item() == (1 + 5 + 14) / 4
        assert reduce(self.values, weights, "none").tolist() == pytest.approx([1, 19 / 3])

    def test_window_of_weight_zero_may_be_nan(self):
        values = torch.tensor([[1.0, torch.nan]], requires_grad=True)
        loss = reduce(values, torch.tensor([[1.0, 0.0]]))
        loss.backward()
        assert loss.item() == 1
        assert values.grad.tolist() == [[1.0, 0.0]]

    @pytest.mark.parametrize("weight", [-1.0, torch.nan])
    def test_a_bad_weight_is_not_left_out(self, weight):
        assert reduce(self.values, torch.tensor([[1.0, weight], [1.0, 1.0]])).isnan()

    def test_nothing_counts(self):
        assert reduce(self.values, torch.zeros(2, 2)).item() == 0

    def test_unknown(self):
        with pytest.raises(ValueError, match="got 'max'"):
            reduce(self.values, reduction="max")


def test_calibrated_probability():
    score = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    expected = torch.tensor([1 / (1 + math.e), 0.5, math.e / (1 + math.e)], dtype=torch.float64)
    assert torch.allclose(calibrated_probability(score, 0.1, 0.5), expected)
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        calibrated_probability(score, 0.0, 0.5)


def test_nan_stays_nan():
    nan, one = torch.tensor([torch.nan, 1.0]), torch.ones(2)
    assert sync_probability(nan, one, surrogate=True).isnan()
    assert margin_loss(nan[:1], one[:1], 0.3).isnan()
    assert margin_loss(nan[:1], 0 * one[:1], 0.3).isnan()
    assert reduce(nan[None]).isnan()
    assert offset_matrix(nan.expand(1, 3, 2), one.expand(1, 3, 2), 1).isnan().all()


def test_straight_through_clamp():
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    y = straight_through_clamp(x, 0, 1)
    y.sum().backward()
    assert y.tolist() == [0, 0.5, 1]
    assert x.grad.tolist() == [1, 1, 1]


class TestBoundedWeight:
    def losses(self, scale):
        frames = torch.zeros(2, 8, requires_grad=True)
        return scale * frames.square().sum() + scale * frames.sum(), (frames - 1).abs().mean(), frames

    def test_bounds_the_ratio_of_the_gradients(self):
        for scale in (1.0, 1000.0):
            sync, reconstruction, frames = self.losses(scale)
            weight = bounded_weight(1.0, sync, reconstruction, frames, ratio=0.25)
            # of 16 values, each with gradient 1/16 by reconstruction and `scale` by sync
            assert weight.item() == pytest.approx(0.25 / 16 / scale)
            assert not weight.requires_grad
            (pull,) = torch.autograd.grad(weight * sync, frames, retain_graph=True)
            (reference,) = torch.autograd.grad(reconstruction, frames, retain_graph=True)
            assert pull.norm().item() == pytest.approx(0.25 * reference.norm().item())
            (reconstruction + weight * sync).backward()  # the graph is still there

    def test_never_above_the_weight(self):
        assert bounded_weight(0.03, *self.losses(1e-3), ratio=0.5).item() == pytest.approx(0.03)

    def test_no_sync_gradient(self):
        sync, reconstruction, frames = self.losses(0.0)
        assert bounded_weight(0.03, sync, reconstruction, frames).item() == pytest.approx(0.03)

    def test_nan_stays_nan(self):
        sync, reconstruction, frames = self.losses(1.0)
        assert bounded_weight(0.03, sync * torch.nan, reconstruction, frames).isnan()
