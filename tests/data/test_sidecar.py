"""Boxes and landmarks given beside a video."""

import json

import numpy as np
import pytest

from unisync_loss.data.sidecar import SidecarFaces, read_sidecar

LANDMARKS = np.array([[[10, 20, 4], [30, 60, -8]], [[12, 22, 4], [np.nan] * 3]], np.float32)


def test_boxes_enclose_the_landmarks_of_each_frame():
    sidecar = SidecarFaces(None, LANDMARKS)
    assert sidecar.boxes_of(0).tolist() == [[10, 20, 30, 60]]
    assert sidecar.boxes_of(1).shape == sidecar.boxes_of(2).shape == (0, 4)  # no face, and beyond the last frame


def test_faces_without_a_box_are_skipped():
    boxes = np.full((1, 3, 4), np.nan, np.float32)
    boxes[0, 1] = 1, 2, 3, 4
    assert SidecarFaces(boxes, None).boxes_of(0).tolist() == [[1, 2, 3, 4]]
    assert SidecarFaces(boxes[:, 1], None).boxes_of(0).tolist() == [[1, 2, 3, 4]]
    assert SidecarFaces(boxes, None).landmarks_in_crops([0], np.ones((1, 3), np.float32)) is None


def test_landmarks_are_fractions_of_their_crops_and_depth_of_its_side():
    squares = np.array([[20, 40, 80], [20, 40, 80], [20, 40, 80]], np.float32)
    points = SidecarFaces(None, LANDMARKS).landmarks_in_crops([0, 1, 9], squares)
    assert points[0] == pytest.approx(np.array([[0.375, 0.25, 0.05], [0.625, 0.75, -0.1]]))
    assert np.isnan(points[1, 1]).all()
    assert np.isnan(points[2]).all()
    assert LANDMARKS[0, 0].tolist() == [10, 20, 4]  # unchanged
    flat = SidecarFaces(None, LANDMARKS[..., :2]).landmarks_in_crops([0], squares[:1])
    assert flat[0] == pytest.approx(points[0, :, :2])


def test_files_beside_a_video(tmp_path):
    video = str(tmp_path / "a.mp4")
    assert read_sidecar(video) is None
    (tmp_path / "a.landmarks.json").write_text(json.dumps([[[1, 2], [3, 4]]]))
    assert read_sidecar(video).boxes_of(0).tolist() == [[1, 2, 3, 4]]
    np.save(tmp_path / "a.boxes.npy", np.array([[5.0, 6, 7, 8]]))
    assert read_sidecar(video).boxes_of(0).tolist() == [[5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("boxes", "landmarks", "message"),
    [
        (None, None, "expected boxes or landmarks, got neither"),
        (None, np.zeros((5, 6)), r"landmarks: expected \(N, P, 2\) or \(N, P, 3\), got \(5, 6\)"),
        (None, np.zeros((5, 6, 4)), r"landmarks: expected .*, got \(5, 6, 4\)"),
        (np.zeros((5, 3)), None, r"boxes: expected \(N, 4\) or \(N, K, 4\), got \(5, 3\)"),
    ],
)
def test_wrong_shapes(boxes, landmarks, message):
    with pytest.raises(ValueError, match=message):
        SidecarFaces(boxes, landmarks)
