"""Face meshes: gaps, pose and mouth shape."""

import numpy as np
import pytest

from unisync_loss.representations.face_topology import MOUTH_POINTS, RIGID_POINTS, TEMPLATE
from unisync_loss.video.face_mesh import face_mesh, fill_gaps, has_face, lip_shape, mouth_of_mesh, pose_of_mesh


def test_gaps_take_the_nearest_face():
    mesh = np.arange(10, dtype=np.float32)[:, None, None] * np.ones((1, 468, 3), np.float32)
    mesh[[3, 9]] = np.nan
    assert fill_gaps(mesh)[:, 0, 0].tolist() == [0, 1, 2, 2, 4, 5, 6, 7, 8, 8]
    mesh[[0, 1]] = np.nan
    with pytest.raises(ValueError, match="found one in 6 of 10"):
        fill_gaps(mesh)


def test_frames_without_a_face():
    pytest.importorskip("mediapipe")
    mesh = face_mesh(np.zeros((2, 64, 64, 3), np.uint8), depth=True)
    assert mesh.shape == (2, 468, 3)
    assert not has_face(mesh).any()


def test_pose_and_mouth_do_not_depend_on_where_the_head_is():
    """The template moved, turned and grown in pixels of an oblong frame, its mouth with it."""
    height, width = 100, 200
    angle, scale, shift = 0.3, 20.0, np.array([90, 55])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mouth = np.random.default_rng(0).normal(size=(len(MOUTH_POINTS), 2))
    mesh = np.zeros((1, 468, 2))
    mesh[0, MOUTH_POINTS] = mouth @ turn.T + shift
    mesh[0, RIGID_POINTS] = np.asarray(TEMPLATE) @ turn.T + shift
    mesh = (mesh / [width, height]).astype(np.float32)
    pose = pose_of_mesh(mesh, (height, width))
    assert pose[0, :, :2] * [[width], [height]] == pytest.approx(turn, abs=1e-3)
    assert pose[0, :, 2] * [width, height] == pytest.approx(shift, abs=1e-2)
    kept = [index for index, point in enumerate(MOUTH_POINTS) if point not in RIGID_POINTS]
    assert mouth_of_mesh(mesh, pose)[0, kept] == pytest.approx(mouth[kept], abs=1e-3)


def test_lip_shape():
    mouth = np.zeros((1, len(MOUTH_POINTS), 2), np.float32)
    points = {name: MOUTH_POINTS.index(name) for name in (78, 308, 13, 14, 82, 87, 312, 317)}
    mouth[0, points[78]], mouth[0, points[308]] = (-0.2, 0.0), (0.3, 0.0)
    mouth[0, [points[13], points[82], points[312]], 1] = -0.1
    mouth[0, [points[14], points[87], points[317]], 1] = (0.2, 0.1, 0.1)
    assert lip_shape(mouth)[0] == pytest.approx([(0.3 + 0.2 + 0.2) / 3, 0.5])
