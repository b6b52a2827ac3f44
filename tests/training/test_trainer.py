"""Training from video files, with a real face tracker on drawn faces."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.synthetic.clip import synthesize_clip
from unisync_loss import UniSyncConfig, load_expert
from unisync_loss.data.clips import list_clips
from unisync_loss.representations.face_topology import MIRRORED_MOUTH
from unisync_loss.training.config import TrainConfig
from unisync_loss.training.data.augment import (
    augment_motion,
    augment_mouths,
    augment_views,
    augment_voice,
    mirror_motion,
    pose_in_crop,
)
from unisync_loss.training.data.cache import build_cache, load_cached
from unisync_loss.training.data.dataset import ClipData, speaker_odds
from unisync_loss.training.data.pairs import PairPlan
from unisync_loss.training.learner import MOTION_FEATURES, Learner, hear, motion_features
from unisync_loss.training.losses import all_pairs, all_pairs_margin_loss, contrastive_loss, pair_kinds
from unisync_loss.training.mouth_stages import AlignStage, SyncStage, pose_error
from unisync_loss.training.stages import BatchSize, sync_terms
from unisync_loss.training.trainer import train
from unisync_loss.video.encoding import write_clip


@pytest.fixture(scope="session")
def data(folder, cache):
    return ClipData(list_clips(folder), cache, UniSyncConfig(), 13)


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


class TestCache:
    def test_what_is_kept(self, folder, cache):
        clip = load_cached(list_clips(folder)[0], cache)
        assert clip.cuts.shape == (30, 80, 80, 3)
        assert clip.points.shape == (30, 52, 2)
        assert clip.waveform.shape == (30 * 640,)

    def test_the_face_tracker_sees_the_drawn_mouth_move(self, folder, cache):
        correlations = []
        for entry in list_clips(folder):
            speaker, number = int(entry.speaker[-1]), int(Path(entry.name).stem)
            truth = synthesize_clip(10 * speaker + number, seconds=1.2, speaker_seed=speaker).mouth_opening
            inner = load_cached(entry, cache).points[:, 20:40, 1]
            correlations.append(np.corrcoef(inner.max(1) - inner.min(1), truth)[0, 1])
        assert np.median(correlations) > 0.7

    def test_nothing_is_done_twice(self, folder, cache):
        before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
        assert [step[0] for step in build_cache(list_clips(folder), cache, 1)] == [6]
        assert before == {path: path.stat().st_mtime_ns for path in cache.iterdir()}

    def test_a_clip_without_a_face_is_named(self, tmp_path):
        path = tmp_path / "a" / "b" / "c.mp4"
        path.parent.mkdir(parents=True)
        write_clip(path, np.full((10, 64, 64, 3), 128, np.uint8), np.zeros(6400, np.float32))
        *_, (_, _, skipped) = build_cache(list_clips(tmp_path), tmp_path / "cache", 1)
        assert "expected a face in every frame, found one in 0 of 10" in skipped["a/b/c.mp4"]

    def test_a_clip_that_is_gone_and_one_that_kills_are_named(self, folder, cache, tmp_path, monkeypatch):
        """One file is no longer there, one makes the decoder crash: the others are measured."""
        whole = list_clips(folder)[:2]
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "a" / "b" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
        (tmp_path / "a" / "b" / "kills.mp4").write_bytes(b"kill")
        monkeypatch.setattr("unisync_loss.training.data.cache._cache_one", dies_of_some)
        *_, (done, total, skipped) = build_cache([*whole, *list_clips(tmp_path)], tmp_path / "cache", 1)
        assert (done, total) == (4, 4)
        assert list(skipped) == ["a/b/gone.mp4", "a/b/kills.mp4"]
        assert "no file that can be read" in skipped["a/b/gone.mp4"]
        assert skipped["a/b/kills.mp4"] == "the process that measured it died: Killed"
        data = ClipData([*whole, *list_clips(tmp_path)], cache, UniSyncConfig(), 13)
        assert data.entries == whole


def dies_of_some(task):
    """Stands in for what measures a clip."""
    if task[0].path.name == "kills.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return task[0].name, ""


class TestSampling:
    def test_segments_do_not_overlap_where_there_is_room(self, data):
        batch = data.draw(np.random.default_rng(0), 6, 2, 13)
        assert batch.seen["cuts"].shape == (12, 13, 80, 80, 3)
        assert batch.audio.shape == (12, 80, int(8 * 3.2) + 16)
        first, second = batch.start[::2], batch.start[1::2]
        assert (second - first >= 13).all()
        assert torch.equal(batch.clip[::2], batch.clip[1::2])
        assert len(batch.clip[::2].unique()) == 6

    def test_sound_and_picture_are_of_one_time(self, data):
        batch = data.segments(np.array([2]), np.array([7]), 13)
        whole = data.segments(np.array([2]), np.array([0]), int(data.frames[2]))
        assert torch.equal(batch.seen["cuts"][0], whole.seen["cuts"][0, 7:20])
        assert torch.equal(batch.audio[0], whole.audio[0, :, 22 : 22 + batch.audio.shape[2]])  # floor(3.2 * 7) = 22

    def test_offsets_move_the_sound(self, folder, cache):
        (folder / "offsets.csv").write_text("clip,offset_frames\ndrawn/s0/0.mp4,5\n")
        try:
            shifted = ClipData(list_clips(folder), cache, UniSyncConfig(), 13)
        finally:
            (folder / "offsets.csv").unlink()
        plain = ClipData(list_clips(folder), cache, UniSyncConfig(), 13)
        assert shifted.frames.tolist() == [25, *plain.frames[1:].tolist()]
        ours = shifted.segments(np.array([0]), np.array([5]), 13).audio
        theirs = plain.segments(np.array([0]), np.array([10]), 13).audio
        assert torch.allclose(ours, theirs, atol=0.01)

    def test_another_tempo_moves_sound_and_picture_alike(self, folder, cache):
        ramp = ClipData(list_clips(folder), cache, UniSyncConfig(), 13)
        cuts = ramp.seen["cuts"]
        frames, steps = np.arange(len(cuts)), np.arange(len(ramp.audio))
        ramp.seen["motion"] = np.broadcast_to(frames[:, None, None], (len(frames), 52, 2)).astype(np.float32)
        ramp.audio = np.broadcast_to(steps[:, None] / 3.2, (len(steps), 80)).astype(np.float32)
        batch = ramp.segments(np.array([0, 0]), np.array([3.5, 4.0]), 13, np.array([1.15, 1.0]))
        for row, start, tempo in ((0, 3.5, 1.15), (1, 4.0, 1.0)):
            assert batch.seen["motion"][row, :, 0, 0].numpy() == pytest.approx(start + tempo * np.arange(13), abs=1e-4)
            step = start + tempo * np.arange(batch.audio.shape[2]) / 3.2
            assert batch.audio[row, 0].numpy() == pytest.approx(step, abs=0.3 if tempo == 1 else 1e-4)
        picture = ramp.segments(np.array([0]), np.array([3.5]), 2).seen["cuts"][0, 0].float()
        assert np.abs(picture.numpy() - (cuts[3].astype(float) + cuts[4]) / 2).max() <= 0.5

    def test_speakers_by_the_root_of_their_minutes(self):
        odds = speaker_odds(np.array([0, 0, 1]), np.array([300, 600, 100]))
        assert odds.sum() == pytest.approx(1)
        assert odds[:2].sum() / odds[2] == pytest.approx(3)
        assert odds[1] / odds[0] == pytest.approx(2)

    def test_motion_is_measured_from_where_the_mouth_rests(self, folder, cache, data):
        batch = data.segments(np.array([2]), np.array([0]), int(data.frames[2]))
        assert batch.seen["motion"].shape == (1, data.frames[2], 52, 2)
        assert np.median(batch.seen["motion"][0].numpy(), axis=0) == pytest.approx(0, abs=1e-6)
        points = torch.from_numpy(load_cached(data.entries[2], cache).points)
        assert torch.allclose(batch.seen["motion"][0].diff(dim=0), points.diff(dim=0), atol=1e-5)


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
        learner = Learner(UniSyncConfig(visual="landmarks", embedding=16)).eval()
        batch, visual = data.segments(np.array([2]), np.array([0]), 13), torch.rand(1, 9, 16)
        probability = all_pairs(hear(learner, batch, 13, augmented=False)[0], visual[0])
        apart = (torch.arange(9)[:, None] - torch.arange(9)).abs()
        for shift, nearest in ((1, 2), (2, 2), (4, 4)):
            size = BatchSize(plan=PairPlan(min_shift=shift), skip_silence=False, augment=False)
            terms = sync_terms(learner, batch, visual, size)
            assert terms["p_same"].item() == pytest.approx(probability[apart >= nearest].mean().item(), rel=1e-5)

    def test_all_pairs_know_which_windows_are_silent(self, folder, cache):
        quiet = ClipData(list_clips(folder), cache, UniSyncConfig(), 13)
        quiet.voiced = np.arange(len(quiet.voiced)) % 3 > 0
        batch = quiet.segments(np.array([2]), np.array([7]), 13)
        assert batch.silent[0].tolist() == [(quiet.first_frame[2] + 7 + window) % 3 == 0 for window in range(9)]
        torch.manual_seed(0)
        learner = Learner(UniSyncConfig(visual="landmarks", embedding=16)).eval()
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


class TestAugmentation:
    def test_shapes_and_ranges(self):
        mouths = augment_mouths(torch.rand(26, 3, 80, 80), torch.tensor([True, False]))
        assert mouths.shape == (26, 3, 64, 64)
        assert 0 <= mouths.min() <= mouths.max() <= 1
        mel = augment_voice(torch.rand(4, 80, 41) * 8 - 4)
        assert mel.shape == (4, 80, 41)
        assert -4 <= mel.min() <= mel.max() <= 4

    def test_motion_of_a_mirrored_mouth(self, cache, folder):
        # a mirrored face's points are those of the mirror image: the drawn mouths are symmetric but for the tracker
        points = torch.from_numpy(load_cached(list_clips(folder)[0], cache).points)[None]
        both = mirror_motion(points.repeat(2, 1, 1, 1), torch.tensor([True, False]))
        assert torch.equal(both[1], points[0])
        flipped = points[0] * torch.tensor([-1.0, 1.0])  # without the change of sides
        assert (both[0] - points[0]).abs().mean() < 0.3 * (flipped - points[0]).abs().mean()
        assert sorted(MIRRORED_MOUTH) == list(range(52))
        assert [MIRRORED_MOUTH[image] for image in MIRRORED_MOUTH] == list(range(52))

    def test_augmented_motion_keeps_its_course(self):
        torch.manual_seed(0)
        motion = 0.03 * torch.randn(64, 13, 1, 1) * torch.ones(52, 2)
        changed = augment_motion(motion)
        courses = torch.corrcoef(torch.stack([motion[5, :, 0, 1], changed[5].mean((1, 2))]))
        assert courses[0, 1] > 0.95
        assert (changed - motion).abs().mean() > 0.003

    def test_the_pose_follows_the_crop(self):
        # a point seen through crop and pose lands where the pose in the crop says
        pose = torch.tensor([[[0.3, 0.02, 0.5], [-0.02, 0.3, 0.4]]])
        crop = torch.tensor([[[0.8, 0.1, 0.05], [-0.1, 0.7, -0.2]]])
        point = torch.tensor([0.2, 0.9, 1.0])
        in_crop = 2 * (pose_in_crop(pose, crop)[0] @ point) - 1
        in_view = crop[0] @ torch.cat([in_crop, torch.ones(1)])
        assert torch.allclose((in_view + 1) / 2, pose[0] @ point, atol=1e-6)

    def test_views(self):
        views, poses = augment_views(
            torch.rand(5, 3, 96, 96), torch.tensor([[0.3, 0, 0.5], [0, 0.3, 0.4]]).repeat(5, 1, 1)
        )
        assert views.shape == (5, 3, 64, 64)
        assert poses.shape == (5, 2, 3)

    def test_a_mirrored_face_has_an_upright_pose(self):
        # nobody can tell a mirrored face from another one: a pose that mirrors could only be learnt by heart
        _, poses = augment_views(
            torch.rand(64, 3, 96, 96), torch.tensor([[0.3, 0, 0.5], [0, 0.3, 0.4]]).repeat(64, 1, 1)
        )
        assert (torch.linalg.det(poses[:, :, :2]) > 0).all()
        assert (poses[:, 0, 0] > 0).all()


def test_the_aligner_learns(data):
    learner, stage, generator = Learner(UniSyncConfig(embedding=16)), AlignStage(batch=32), np.random.default_rng(0)
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
    learner = Learner(UniSyncConfig())
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
    train(run_config(folder, cache, out), UniSyncConfig(), resume=False, say=lambda line: None)
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
            train(run_config(folder, cache, tmp_path), UniSyncConfig(), resume=False, say=print)


def stop_after_two_steps(config, *, resume):
    """Run until the process is asked to stop after two steps, as by SIGTERM; whether it was."""
    from unisync_loss.training import mouth_stages as stages

    count = 0
    original = stages.ClipData.draw
    views = stages.ClipData.draw_views

    def counted(function):
        def wrapper(*arguments, **options):
            nonlocal count
            count += 1
            if count == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments, **options)

        return wrapper

    stages.ClipData.draw, stages.ClipData.draw_views = counted(original), counted(views)
    lines = []
    try:
        train(config, UniSyncConfig(), resume=resume, say=lines.append)
    finally:
        stages.ClipData.draw, stages.ClipData.draw_views = original, views
    return any("stopped" in line for line in lines)
