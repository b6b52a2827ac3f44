"""Stages of a small expert on rgb."""

import numpy as np
import pytest
import torch
from torch import nn

from unisync_loss import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import MOTION_FEATURES, TrainingModel, motion_features
from unisync_loss.training.mouth_stages import JointStage, MouthAlignerStage, SyncStage, evaluating, perturb
from unisync_loss.training.stages import BatchSize

RADIUS = 0.02


@pytest.fixture(scope="module")
def data(folder, cache):
    return CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)


def test_the_aligner_learns(data):
    model, stage, generator = (
        TrainingModel(UniSyncConfig(embedding=16)),
        MouthAlignerStage(batch=32),
        np.random.default_rng(0),
    )
    aligner = model.visual.aligner
    optimiser = torch.optim.Adam(aligner.parameters(), 2e-3)
    aligner.train()
    errors = []
    for _ in range(40):
        optimiser.zero_grad()
        terms = stage.loss(model, stage.draw(data, generator))
        terms["loss"].backward()
        optimiser.step()
        errors.append(terms["loss"].item())
    assert np.mean(errors[-5:]) < 0.75 * np.mean(errors[:5])


def test_the_sync_stage_looks_at_no_picture(data):
    torch.manual_seed(0)
    model = TrainingModel(UniSyncConfig())
    stage = SyncStage(BatchSize(clips=3))
    terms = stage.loss(model, stage.draw(data, np.random.default_rng(0)))
    terms["loss"].backward()
    assert all(parameter.grad is None for parameter in model.stem.parameters())
    assert model.visual.trunk[0].weight.grad[:, :MOTION_FEATURES].abs().sum() > 0
    assert motion_features(torch.rand(2, 13, 52, 2)).shape == (2, 13, 192)


def test_every_pixel_of_a_linear_loss_moves_by_the_radius_drawn_for_its_segment():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 3, 8, 8) * 0.8 + 0.1
    slope = torch.randn_like(images)
    changed = perturb(images, lambda values: (slope * values).sum(), RADIUS, 1.0)
    steps = ((changed - images) * slope.sign()).flatten(1)
    radius = steps.amax(1)
    assert (radius > 0).all()
    assert (radius <= RADIUS).all()
    assert len(set(radius.tolist())) == 4
    # 1.25 radii from anywhere within one: at least a quarter of a radius, and the whole one from five of eight starts
    assert (steps > 0.24 * radius[:, None]).all()
    assert ((steps / radius[:, None] > 0.999).float().mean() - 0.625).abs() < 0.05
    assert not changed.requires_grad


def test_pixels_stay_in_range_and_a_share_of_the_segments_is_left_alone():
    torch.manual_seed(0)
    images = torch.ones(200, 1, 1, 2, 2)
    changed = perturb(images, lambda values: -values.sum(), 0.5, 0.25)
    assert changed.min() >= 0
    assert abs((changed < 1).flatten(1).any(1).float().mean() - 0.25) < 0.1
    assert torch.equal(perturb(images, lambda values: values.sum(), 0.5, 1.0), images)  # up, beyond the range


def test_modules_return_to_their_own_modes():
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)).train()
    network[0].eval()
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, False, True]


def test_the_joint_stage_is_harder_with_perturbation(data):
    torch.manual_seed(0)
    model = TrainingModel(UniSyncConfig(embedding=16)).eval()
    size = BatchSize(clips=3, augment=False)
    batch = JointStage(size).draw(data, np.random.default_rng(0))
    losses = []
    for radius in (0.0, 0.03):
        terms = JointStage(size, perturbation=radius, perturbed=1.0).loss(model, batch)
        terms["loss"].backward()
        losses.append(terms["contrast"].item() + terms["margin"].item())
    assert losses[1] > losses[0]
