import itertools

import numpy as np
import pytest

from unisync_loss.video import face_tracking as tracks
from unisync_loss.video.face_detection import MediaPipeFinder, cover_with_squares, overlap
from unisync_loss.video.face_tracking import CROP_RISE, CROP_SCALE, TrackEnd, TrackPiece, crop_square, track_faces


class Scene:
    """Drawn frames whose red channel numbers them, and a finder that knows where the faces are."""

    def __init__(self, size=(180, 320)):
        self.size, self.frames, self.boxes, self.looks = size, [], [], []

    def show(self, boxes, level=60):
        frame = np.full((*self.size, 3), level, np.uint8)
        frame[..., 0] = len(self.frames) % 250
        for box in boxes:
            left, top, right, bottom = np.round(box).astype(int)
            frame[top:bottom, left:right, 1] = 200
        self.frames.append(frame)
        self.boxes.append(np.array(boxes, np.float32).reshape(-1, 4))

    def find(self, frame, index):
        assert frame is self.frames[index]
        self.looks.append(index)
        return self.boxes[index]

    def run(self):
        pieces, ends = {}, []
        for event in track_faces(iter(self.frames), self.find):
            if isinstance(event, TrackPiece):
                pieces.setdefault(event.track, []).append(event)
            else:
                ends.append(event)
        for parts in pieces.values():
            for before, after in itertools.pairwise(parts):
                assert after.start == before.start + len(before.crops)
        return pieces, ends


def box(x, y=90.0, side=50.0):
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def frames_of(parts):
    """The frames whose numbers the crops carry."""
    return [round(crop[80:112, 80:112, 0].mean()) for part in parts for crop in part.crops]


def test_a_face_from_the_first_frame_to_the_last():
    scene = Scene()
    for time in range(73):
        scene.show([box(100 + time)])
    pieces, ends = scene.run()
    assert ends == [TrackEnd(0, 0, 73, "")]
    assert frames_of(pieces[0]) == list(range(73))
    squares = np.concatenate([part.squares for part in pieces[0]])
    assert squares.shape == (73, 3)
    assert squares[10:60, 0] == pytest.approx(np.arange(110, 160), abs=0.1)
    assert squares[:, 2] == pytest.approx(50 * CROP_SCALE, abs=1e-3)
    assert squares[:, 1] == pytest.approx(90 - CROP_RISE * 50 * CROP_SCALE, abs=1e-3)
    # the face is where the square says, and of its size
    green = scene_green(pieces[0][1].crops[0])
    assert green == pytest.approx(192**2 / CROP_SCALE**2, rel=0.03)
    assert len(scene.looks) == 15


def scene_green(crop):
    return int((crop[..., 1] > 130).sum())


def test_pieces_do_not_depend_on_what_comes_later_than_a_second():
    long, short = Scene(), Scene()
    for time in range(120):
        for scene in (long, short)[: 1 + (time < 90)]:
            scene.show([box(100 + 20 * np.sin(time / 9))])
    a, b = (np.concatenate([part.crops for part in scene.run()[0][0]]) for scene in (long, short))
    assert np.array_equal(a[:75], b[:75])


def test_a_trembling_box_gives_a_steady_crop():
    scene, draw = Scene(), np.random.default_rng(0)
    for _ in range(150):
        scene.show([box(150 + draw.normal(0, 2))])
    squares = np.concatenate([part.squares for part in scene.run()[0][0]])
    assert np.abs(np.diff(squares[:, 0])).max() < 0.5


def test_three_people():
    scene = Scene()
    for time in range(60):
        scene.show([box(60), box(160), box(260)] if time % 2 else [box(260), box(60), box(160)])
    pieces, ends = scene.run()
    assert sorted(end.frames for end in ends) == [60] * 3
    centres = sorted(parts[0].squares[0, 0] for parts in pieces.values())
    assert centres == pytest.approx([60, 160, 260], abs=0.1)


def test_a_scene_cut_splits_even_the_same_place():
    scene = Scene()
    for time in range(80):
        scene.show([box(100)], level=60 if time < 42 else 140)
    pieces, ends = scene.run()
    assert [(end.start, end.frames) for end in ends] == [(0, 42), (42, 38)]
    assert frames_of(pieces[0]) == list(range(42))
    assert frames_of(pieces[1]) == list(range(42, 80))


def test_short_gaps_are_bridged_and_long_ones_end_the_track():
    scene = Scene()
    for time in range(140):
        gone = 42 <= time < 50 or 85 <= time < 105
        scene.show([] if gone else [box(100)])
    pieces, ends = scene.run()
    assert [(end.start, end.dropped) for end in ends] == [(0, ""), (106, "")]  # looked at every 5th frame again
    assert frames_of(pieces[0]) == list(range(81))  # last detected in frame 80
    assert sum(time in scene.looks for time in range(42, 50)) >= 5  # every frame while it is lost


def test_short_and_small_tracks_are_dropped_with_the_reason():
    scene = Scene()
    for time in range(100):
        scene.show([box(60, side=30), *([box(200)] if time < 20 else [])])
    pieces, ends = scene.run()
    assert pieces == {}
    reasons = {end.start + end.frames: end.dropped for end in ends}
    assert any("visible for" in reason and "expected at least 30" in reason for reason in reasons.values())
    assert "a face of 30 pixels, expected at least 40" in reasons.values()


def test_a_face_that_comes_nearer_is_kept_from_then_on():
    scene = Scene()
    for time in range(200):
        scene.show([box(150, side=30 + min(time, 100) * 0.3)])
    pieces, ends = scene.run()
    assert [end.dropped for end in ends] == [""]
    assert 0 < ends[0].start < 100
    assert ends[0].start + ends[0].frames == 200
    assert frames_of(pieces[0]) == list(range(ends[0].start, 200))


def test_few_frames_are_held():
    scene = Scene()
    held = []
    for _ in range(300):
        scene.show([box(100), box(220)])
    tracker = tracks._Tracker(scene.find)
    for frame in scene.frames:
        list(tracker.push(frame))
        held.append(len(tracker.held))
    assert max(held) <= tracks.LONGEST_GAP + tracks._HALF_KERNEL + tracks.DETECT_EVERY
    assert all(len(track.keys) <= 6 for track in tracker.open)


def test_no_frames_and_no_faces():
    assert list(track_faces(iter([]), lambda frame, number: [])) == []
    assert list(track_faces([np.zeros((32, 32, 3), np.uint8)] * 40, lambda frame, number: [])) == []


def test_overlap():
    boxes = np.array([[0, 0, 2, 2], [5, 5, 6, 6]], np.float32)
    others = np.array([[1, 0, 3, 2], [0, 0, 2, 2]], np.float32)
    assert overlap(boxes, others) == pytest.approx(np.array([[1 / 3, 1], [0, 0]]))


@pytest.mark.parametrize("side", [30.5, 96.25, 700.0])
def test_cuts_are_where_they_should_be(side):
    """A linear ramp must come out as the ramp at the centres of the cut's pixels."""
    across = np.arange(900, dtype=np.float64)
    frame = np.broadcast_to((across / 4)[None, :, None], (900, 900, 3)).round().astype(np.uint8)
    cut = crop_square(frame, np.array([450.3, 420.0, side], np.float32), 64)
    expected = (450.3 - side / 2 + (np.arange(64) + 0.5) / 64 * side - 0.5) / 4
    assert np.abs(cut[32, :, 0] - expected).max() < 1.0
    assert np.abs((cut[32, :, 0] - expected).mean()) < 0.15


def test_cuts_beyond_the_border_repeat_it():
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[:, :2] = 250
    cut = crop_square(frame, np.array([0.0, 20.0, 40.0], np.float32), 32)
    assert (cut[:, :15] > 245).all()
    assert (cut[:, 20:] < 5).all()
    assert crop_square(frame, np.array([-500.0, 20.0, 40.0], np.float32), 32).min() > 245


@pytest.mark.parametrize(
    ("size", "expected"), [((99, 99), 1), ((100, 109), 1), ((90, 160), 3), ((160, 90), 3), ((99, 132), 2)]
)
def test_squares_cover_the_frame(size, expected):
    frame = np.zeros((*size, 3), np.uint8)
    squares = list(cover_with_squares(frame))
    assert len(squares) == expected
    for part, _, _ in squares:
        part[:] = 1
    assert frame.min() == 1


def test_mediapipe_finds_the_drawn_face():
    pytest.importorskip("mediapipe")
    from unisync_loss.demo.run import DEFAULT_CLIP
    from unisync_loss.video.clip import read_clip

    frame = read_clip(DEFAULT_CLIP, max_frames=1).frames[0]
    height, width = frame.shape[:2]
    wide = np.full((height + 100, 4 * width, 3), 90, np.uint8)
    wide[50 : 50 + height, -width:] = frame  # in a wide picture it is found where it lies, of the same size
    finder = MediaPipeFinder()
    assert len(finder(np.zeros((64, 64, 3), np.uint8))) == 0
    near, wide_found = finder(frame), finder(wide)
    assert near.shape == wide_found.shape == (1, 4)
    assert wide_found[0] - (3 * width, 50, 3 * width, 50) == pytest.approx(near[0], abs=0.05 * width)
