"""Stages of a small expert on rgb."""

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import MOTION_FEATURES, TrainingModel, motion_features
from unisync_loss.training.mouth_stages import MouthAlignerStage, SyncStage, pose_error
from unisync_loss.training.stages import BatchSize


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


def test_pose_error_is_in_units_of_the_face():
    pose = torch.tensor([[[0.2, 0.0, 0.5], [0.0, 0.2, 0.4]]])
    moved = pose.clone()
    moved[:, 0, 2] += 0.02
    assert pose_error(moved, pose).item() == pytest.approx(0.1)
