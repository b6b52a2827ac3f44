"""Training from video files, with a real face tracker on drawn faces."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig, load_expert
from unisync_loss.data.clips import list_clips
from unisync_loss.training.config import TrainConfig
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.pairs import PairSampling
from unisync_loss.training.losses import all_pairs, all_pairs_margin_loss, contrastive_loss, pair_kinds
from unisync_loss.training.model import MOTION_FEATURES, TrainingModel, encode_audio_batch, motion_features
from unisync_loss.training.mouth_stages import MouthAlignerStage, SyncStage, pose_error
from unisync_loss.training.stages import BatchSize, sync_terms
from unisync_loss.training.trainer import train


@pytest.fixture(scope="session")
def data(folder, cache):
    return CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)


def run_config(folder, cache, out, **changes):
    steps = {"align_steps": 1, "geometry_steps": 1, "sync_steps": 2, "joint_steps": 2}
    values = {
        "data": (str(folder),),
        "val": str(folder),
        "out": str(out),
        "cache": str(cache),
        "clips": 3,
        "val_every": 2,
    }
    return TrainConfig(**{**values, **steps, "save_minutes": 0.0, **changes})


class TestObjective:
    def test_kinds(self):
        kinds = pair_kinds(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 0]))
        assert kinds.same.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
        assert kinds.ignored.int().tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
        assert kinds.cross.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]

    def test_two_silences_are_no_mismatch(self):
        clip, speaker, time = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 9, 0, 9])
        kinds = pair_kinds(clip, speaker, time, torch.tensor([True, True, True, False]))
        assert kinds.same.int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
        assert kinds.cross.int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
        assert kinds.ignored.int().tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]

    def test_mismatches_of_a_clip_are_min_shift_apart(self, data):
        torch.manual_seed(0)
        learner = TrainingModel(UniSyncConfig(visual="landmarks", embedding=16)).eval()
        batch, visual = data.segments(np.array([2]), np.array([0]), 13), torch.rand(1, 9, 16)
        probability = all_pairs(encode_audio_batch(learner, batch, augmented=False)[0], visual[0])
        apart = (torch.arange(9)[:, None] - torch.arange(9)).abs()
        for shift, nearest in ((1, 2), (2, 2), (4, 4)):
            size = BatchSize(plan=PairSampling(min_shift=shift), skip_silence=False, augment=False)
            terms = sync_terms(learner, batch, visual, size)
            assert terms["p_same"].item() == pytest.approx(probability[apart >= nearest].mean().item(), rel=1e-5)

    def test_all_pairs_know_which_windows_are_silent(self, folder, cache):
        quiet = CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)
        quiet.store.voiced = np.arange(len(quiet.store.voiced)) % 3 > 0
        batch = quiet.segments(np.array([2]), np.array([7]), 13)
        assert batch.silent[0].tolist() == [(quiet.store.first_frame[2] + 7 + window) % 3 == 0 for window in range(9)]
        torch.manual_seed(0)
        learner = TrainingModel(UniSyncConfig(visual="landmarks", embedding=16)).eval()
        size = BatchSize(augment=False)
        visual = torch.randn(2, 9, 16)
        batch = replace(
            quiet.segments(np.array([0, 2]), np.array([0, 7]), 13), silent=torch.ones(2, 9, dtype=torch.bool)
        )
        asked, spared = (sync_terms(learner, batch, visual, replace(size, skip_silence=skip)) for skip in (False, True))
        assert torch.isnan(spared["p_same"])  # nothing is left to compare
        assert torch.isfinite(spared["loss"])
        assert torch.isfinite(asked["p_same"])

    def test_cross_speaker_pairs_really_are_of_two_speakers(self, data):
        batch = data.draw(np.random.default_rng(0), 6, 2, 13)
        clip, speaker, time = batch.window_labels()
        kinds = pair_kinds(clip, speaker, time)
        names = [data.entries[index].speaker for index in clip.tolist()]
        rows, columns = kinds.cross.nonzero(as_tuple=True)
        assert len(rows) > 0
        assert all(names[i] != names[j] for i, j in zip(rows.tolist(), columns.tolist(), strict=True))

    def test_constant_answers_sit_on_the_plateau(self):
        clip = torch.arange(8).repeat_interleave(4)
        kinds = pair_kinds(clip, clip, torch.arange(4).repeat(8) * 3)
        constant = torch.full((32, 32), 0.3)
        value = contrastive_loss(constant, kinds, torch.tensor(10.0))
        assert value.item() == pytest.approx(0.2 * np.log(32) + 0.8 * np.log(4), rel=1e-5)
        expected = (-np.log(0.5) - 0.8 * np.log(0.6) - 0.2 * np.log(0.8)) / 2
        margin = all_pairs_margin_loss(torch.full((32, 32), 0.5), kinds, 0.1, 0.3)
        assert margin.item() == pytest.approx(expected, rel=1e-5)

    def test_a_batch_of_one_speaker_has_a_loss(self):
        clip = torch.arange(8).repeat_interleave(4)
        kinds = pair_kinds(clip, torch.zeros(32), torch.arange(4).repeat(8) * 3)
        margin = all_pairs_margin_loss(torch.full((32, 32), 0.5), kinds, 0.1, 0.3)
        assert margin.item() == pytest.approx((-np.log(0.5) - np.log(0.6)) / 2, rel=1e-5)

    def test_right_answers_are_better(self):
        clip = torch.arange(8).repeat_interleave(4)
        kinds = pair_kinds(clip, clip, torch.arange(4).repeat(8) * 3)
        right, constant = torch.eye(32) * 0.9, torch.full((32, 32), 0.3)
        assert contrastive_loss(right, kinds, torch.tensor(20.0)) < 0.1
        assert all_pairs_margin_loss(right, kinds, 0.1, 0.3) < all_pairs_margin_loss(constant, kinds, 0.1, 0.3)


def test_the_aligner_learns(data):
    learner, stage, generator = (
        TrainingModel(UniSyncConfig(embedding=16)),
        MouthAlignerStage(batch=32),
        np.random.default_rng(0),
    )
    aligner = learner.visual.aligner
    optimiser = torch.optim.Adam(aligner.parameters(), 2e-3)
    aligner.train()
    errors = []
    for _ in range(40):
        optimiser.zero_grad()
        terms = stage.loss(learner, stage.draw(data, generator))
        terms["loss"].backward()
        optimiser.step()
        errors.append(terms["loss"].item())
    assert np.mean(errors[-5:]) < 0.75 * np.mean(errors[:5])


def test_the_sync_stage_looks_at_no_picture(data):
    torch.manual_seed(0)
    learner = TrainingModel(UniSyncConfig())
    stage = SyncStage(BatchSize(clips=3))
    terms = stage.loss(learner, stage.draw(data, np.random.default_rng(0)))
    terms["loss"].backward()
    assert all(parameter.grad is None for parameter in learner.stem.parameters())
    assert learner.visual.trunk[0].weight.grad[:, :MOTION_FEATURES].abs().sum() > 0
    assert motion_features(torch.rand(2, 13, 52, 2)).shape == (2, 13, 192)


def test_pose_error_is_in_units_of_the_face():
    pose = torch.tensor([[[0.2, 0.0, 0.5], [0.0, 0.2, 0.4]]])
    moved = pose.clone()
    moved[:, 0, 2] += 0.02
    assert pose_error(moved, pose).item() == pytest.approx(0.1)


@pytest.fixture(scope="module")
def finished(folder, cache, tmp_path_factory):
    """Folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(run_config(folder, cache, out), UniSyncConfig(), resume=False, log=lambda line: None)
    return out


class TestRun:
    def test_leaves_what_it_promises(self, finished):
        names = {path.name for path in finished.iterdir()}
        assert {"last", "best", "log.jsonl", "curves.png", "config.yaml", "state.safetensors"} <= names
        expert = load_expert(finished / "last")
        assert expert(torch.rand(1, 5, 3, 96, 96), torch.rand(1, 3200)).shape == (1, 1)
        log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
        assert {record["stage"] for record in log} == {"align", "geometry", "sync", "joint"}
        assert any("val_auc" in record for record in log)

    def test_a_resumed_run_equals_an_undisturbed_one(self, folder, cache, finished, tmp_path):
        parts = run_config(folder, cache, tmp_path / "parts")
        for attempt in range(20):
            if not stop_after_two_steps(parts, resume=attempt > 0):
                break
        ours, theirs = (load_expert(run / "last").state_dict() for run in (tmp_path / "parts", finished))
        assert attempt > 1
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    def test_an_existing_run_is_not_overwritten(self, folder, cache, tmp_path):
        (tmp_path / "log.jsonl").touch()
        with pytest.raises(FileExistsError, match="--resume"):
            train(run_config(folder, cache, tmp_path), UniSyncConfig(), resume=False, log=print)


def stop_after_two_steps(config, *, resume):
    """Run until the process is asked to stop after two steps, as by SIGTERM; whether it was."""
    from unisync_loss.training import mouth_stages as stages

    count = 0
    original = stages.CachedClipDataset.draw
    views = stages.CachedClipDataset.draw_views

    def counted(function):
        def wrapper(*arguments, **options):
            nonlocal count
            count += 1
            if count == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments, **options)

        return wrapper

    stages.CachedClipDataset.draw, stages.CachedClipDataset.draw_views = counted(original), counted(views)
    lines = []
    try:
        train(config, UniSyncConfig(), resume=resume, log=lines.append)
    finally:
        stages.CachedClipDataset.draw, stages.CachedClipDataset.draw_views = original, views
    return any("stopped" in line for line in lines)
