"""Augmentation: shapes, ranges, what it must keep."""

import pytest
import torch

from unisync_loss.data.clips import list_clips
from unisync_loss.representations.face_topology import MIRRORED_MOUTH, RINGS
from unisync_loss.training.data.augment import (
    augment_face_features,
    augment_features,
    augment_mel,
    augment_motion,
    augment_mouths,
    augment_points_crop,
    augment_views,
    mirror_motion,
    pose_in_crop,
)
from unisync_loss.training.data.cache import load


def test_shapes_and_ranges():
    mouths = augment_mouths(torch.rand(26, 3, 80, 80), torch.tensor([True, False]))
    assert mouths.shape == (26, 3, 64, 64)
    assert 0 <= mouths.min() <= mouths.max() <= 1
    mel = augment_mel(torch.rand(4, 80, 41) * 8 - 4)
    assert mel.shape == (4, 80, 41)
    assert -4 <= mel.min() <= mel.max() <= 4


def test_motion_of_a_mirrored_mouth(cache, folder):
    # a mirrored face's points are those of the mirror image: the drawn mouths are symmetric but for the tracker
    points = torch.from_numpy(load(list_clips(folder)[0], cache, "mouth")["points"])[None]
    both = mirror_motion(points.repeat(2, 1, 1, 1), torch.tensor([True, False]))
    assert torch.equal(both[1], points[0])
    flipped = points[0] * torch.tensor([-1.0, 1.0])  # without the change of sides
    assert (both[0] - points[0]).abs().mean() < 0.3 * (flipped - points[0]).abs().mean()
    assert sorted(MIRRORED_MOUTH) == list(range(52))
    assert [MIRRORED_MOUTH[image] for image in MIRRORED_MOUTH] == list(range(52))


def test_augmented_motion_keeps_its_course():
    torch.manual_seed(0)
    motion = 0.03 * torch.randn(64, 13, 1, 1) * torch.ones(52, 2)
    changed = augment_motion(motion)
    courses = torch.corrcoef(torch.stack([motion[5, :, 0, 1], changed[5].mean((1, 2))]))
    assert courses[0, 1] > 0.95
    assert (changed - motion).abs().mean() > 0.003


def test_the_pose_follows_the_crop():
    # a point mapped by crop and pose lands where the pose in the crop says
    pose = torch.tensor([[[0.3, 0.02, 0.5], [-0.02, 0.3, 0.4]]])
    crop = torch.tensor([[[0.8, 0.1, 0.05], [-0.1, 0.7, -0.2]]])
    point = torch.tensor([0.2, 0.9, 1.0])
    in_crop = 2 * (pose_in_crop(pose, crop)[0] @ point) - 1
    in_view = crop[0] @ torch.cat([in_crop, torch.ones(1)])
    assert torch.allclose((in_view + 1) / 2, pose[0] @ point, atol=1e-6)


def test_views():
    views, poses = augment_views(torch.rand(5, 3, 96, 96), torch.tensor([[0.3, 0, 0.5], [0, 0.3, 0.4]]).repeat(5, 1, 1))
    assert views.shape == (5, 3, 64, 64)
    assert poses.shape == (5, 2, 3)


def test_a_mirrored_face_has_an_upright_pose():
    # nobody can tell a mirrored face from another one: a pose that mirrors could only be learnt by heart
    _, poses = augment_views(torch.rand(64, 3, 96, 96), torch.tensor([[0.3, 0, 0.5], [0, 0.3, 0.4]]).repeat(64, 1, 1))
    assert (torch.linalg.det(poses[:, :, :2]) > 0).all()
    assert (poses[:, 0, 0] > 0).all()


def test_faces_change_and_courses_stay():
    torch.manual_seed(0)
    course = torch.randn(64, 13, 1, 1)
    mean = torch.randn(64, 1, 2, 30)
    changed = augment_face_features(mean + course * torch.ones(2, 30), mean, torch.arange(64) % 2 == 0)
    assert changed.shape == (64, 13, 30)
    assert torch.corrcoef(torch.stack([course[5, :, 0, 0], changed[5].mean(1)]))[0, 1] > 0.95
    assert (changed[0].mean(0) - (mean + course.mean(1, keepdim=True))[0, 0, 1]).abs().mean() > 0.1


def test_mirrored_segments_are_the_other_view():
    torch.manual_seed(0)
    mirrored = torch.arange(400) % 2 == 0
    values = torch.stack([torch.zeros(400, 13, 4), torch.full((400, 13, 4), 50.0)], dim=2)
    changed = augment_face_features(values, values[:, :1], mirrored)
    # on average half the way to a face that is as often like one's own as not
    assert changed[~mirrored].mean() == pytest.approx(12.5, abs=2)
    assert changed[mirrored].mean() == pytest.approx(37.5, abs=2)


def test_crops_and_features():
    assert augment_points_crop(torch.rand(3, 13, len(RINGS), 2)).shape == (3, 13, len(RINGS), 2)
    features = torch.randn(64, 26, 32)
    changed = augment_features(features)
    same = (changed == features).all((1, 2)).float().mean()
    assert 0.1 < same < 0.7
