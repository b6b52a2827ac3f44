import numpy as np
import pytest
from helpers.lse_videos import still

from unisync_loss.lse.crops import (
    CropBox,
    FaceTrack,
    crop_boxes,
    crop_face,
    find_tracks,
    keep_tracks,
    link_tracks,
    whole_face,
)


def detections(boxes):
    """Faces of the frames whose box is a number."""
    return [(frame, box) for frame, box in enumerate(boxes) if np.isfinite(box).all()]


def spans_of(faces):
    return [(track.start, len(track.boxes)) for track in link_tracks(faces)]


def test_a_track_survives_25_frames_without_a_face():
    boxes = still(80)
    boxes[20:44] = np.nan
    boxes[44:, [0, 2]] += 25
    (track,) = link_tracks(detections(boxes))
    assert (track.start, len(track.boxes)) == (0, 80)
    assert track.boxes[19 + 5, 0] == pytest.approx(105)  # filled in linearly over 25 frames
    boxes[44] = np.nan
    assert spans_of(detections(boxes)) == [(0, 20), (45, 35)]


def test_a_track_ends_where_the_face_jumps_but_not_at_a_false_find():
    boxes = still(60)
    boxes[30:, [0, 2]] += 100
    assert spans_of(detections(boxes)) == [(0, 30), (30, 30)]
    boxes = still(60)
    boxes[30] = [300, 300, 420, 420]
    assert spans_of(detections(boxes)) == [(0, 60), (30, 1)]


def test_faces_beside_each_other_are_tracks_of_their_own():
    left, right = still(60), still(60, x=400.0)
    faces = [face for pair in zip(detections(left), detections(right), strict=True) for face in pair]
    one, two = link_tracks(faces)
    assert (one.boxes == left).all()
    assert (two.boxes == right).all()
    # of two finds of one face in a frame the first counts
    doubled = [face for face in detections(left) for _ in range(2)]
    assert [len(track.boxes) for track in link_tracks(doubled)] == [60, 60]


def test_looks_of_a_scene_are_every_fifth_frame_and_the_last():
    """Boxes as they were found there, in straight lines between; a cut ends all tracks."""
    boxes = still(33)
    boxes += np.arange(33)[:, None]
    frames = [np.full((400, 400, 3), 10 if index < 18 else 200, np.uint8) for index in range(33)]
    for index, frame in enumerate(frames):
        frame[0, 0, 0] = index
    looks = []

    def finder(frame, index):
        assert index == frame[0, 0, 0]
        looks.append(index)
        return boxes[looks[-1]][None]

    tracks = find_tracks(frames, finder)
    assert looks == [0, 5, 10, 15, 17, 18, 23, 28, 32]
    assert [(track.start, len(track.boxes)) for track in tracks] == [(0, 18), (18, 15)]
    expected = np.stack([whole_face(box) for box in boxes])
    assert np.concatenate([track.boxes for track in tracks]) == pytest.approx(expected)
    # 1.1 sides of 120, and 0.065 of them higher
    assert expected[0] == pytest.approx([94, 86.2, 226, 218.2])


def test_short_and_small_tracks_are_refused_with_the_reason():
    assert keep_tracks([FaceTrack(0, still(101)), FaceTrack(200, still(100))], 100)[0].start == 0
    with pytest.raises(ValueError, match="no face found"):
        keep_tracks(link_tracks([]), 50)
    with pytest.raises(ValueError, match="no face track of more than 100 frames at 25 fps, the longest has 100"):
        keep_tracks([FaceTrack(0, still(100))], 100)
    with pytest.raises(ValueError, match="no face larger than 100 pixels, the largest has 90"):
        keep_tracks([FaceTrack(0, still(120, side=90.0))], 100)


def test_boxes_are_smoothed():
    boxes = still(40)
    boxes[20] += 15  # one frame's outlier
    plan = list(crop_boxes(FaceTrack(0, boxes)))
    assert plan[20] == plan[19] == (160, 160, 60)
    # beyond the ends the original's filter takes zeros: at six frames in seven of thirteen are still real
    assert plan[0] == (160, 160, 60)


@pytest.mark.parametrize(("x", "y", "half"), [(150.3, 120.7, 40.2), (20.0, 15.0, 50.0), (290.0, 190.0, 60.5)])
def test_cut_is_the_original_crop(x, y, half):
    """Against the original's way: the whole picture padded with grey, cut, resized by OpenCV."""
    cv2 = pytest.importorskip("cv2")
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8), (300, 200))
    pad = int(half * 1.8)
    padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
    rows = slice(int(y + pad - half), int(y + pad + half * 1.8))
    columns = slice(int(x + pad - half * 1.4), int(x + pad + half * 1.4))
    expected = cv2.resize(padded[rows, columns], (224, 224))
    ours = crop_face(picture, CropBox(x, y, half)).movedim(0, -1).numpy()
    assert np.abs(ours.astype(int) - expected).max() <= 1  # a level: OpenCV's weights have 11 bits


def test_a_crop_beside_the_picture_is_grey():
    assert (crop_face(np.zeros((50, 50, 3), np.uint8), CropBox(500.0, 500.0, 30.0)) == 110).all()
