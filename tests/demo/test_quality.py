"""Measures of generated faces without an expert."""

import numpy as np
import pytest
import torch

from unisync_loss.demo.clip import SIZE
from unisync_loss.demo.quality import (
    Box,
    compare_lips,
    compare_pictures,
    lips_of,
    mean_over_time,
    mouth_box,
    picture_errors,
)
from unisync_loss.demo.run import DEFAULT_CLIP
from unisync_loss.utils.image import resize
from unisync_loss.video.clip import read_clip


@pytest.fixture(scope="module")
def face():
    """Half a second of the drawn face."""
    pytest.importorskip("mediapipe")
    frames = torch.from_numpy(read_clip(DEFAULT_CLIP, max_frames=16).frames)
    return resize(frames.movedim(-1, 1) / 255, SIZE, SIZE).clamp(0, 1)


def painted(video, box):
    """The video with red and green stripes on the mouth."""
    video = video.clone()
    mouth = box.cut(video)
    mouth[:, 0, ::4] += 0.2
    mouth[:, 1, 2::4] += 0.2
    return video.clamp(0, 1)


def test_stripes_on_the_mouth_raise_the_errors_of_colour_and_detail(face):
    box = mouth_box(face)
    blurred = resize(resize(face, SIZE // 2, SIZE // 2), SIZE, SIZE)
    cut = [box.cut(video) for video in (face, blurred, painted(blurred, box))]
    found = compare_pictures(*cut, seed=0)
    assert found["colour"].change.low > 2
    assert found["detail"].change.low > 1.2
    same = compare_pictures(cut[0], cut[1], cut[1], seed=0)
    assert [compared.change.value for compared in same.values()] == [1, 1, 1]


def test_errors_in_closed_form():
    truth = torch.full((2, 3, 8, 8), 0.5)
    shifted, tinted = truth + 0.1, truth.clone()
    tinted[:, 0] += 0.3  # the mean of the channels rises by 0.1
    assert picture_errors(shifted, truth) == pytest.approx(np.array([[0.1] * 2, [0] * 2, [0] * 2]), abs=1e-6)
    assert picture_errors(tinted, truth)[:2, 0] == pytest.approx([0.1, (0.2 + 0.1 + 0.1) / 3], abs=1e-6)
    dot = truth.clone()
    dot[:, :, 4, 4] += 0.9  # its mean over 3 x 3 is 0.1: 0.8 at the dot, 0.1 at each of its 8 neighbours
    assert picture_errors(dot, truth)[2, 0] == pytest.approx((0.8 + 0.8) / 64, abs=1e-6)


def test_mouth_box_holds_the_mouth(face):
    top, bottom, left, right = mouth_box(face)
    assert SIZE // 2 < top < bottom < SIZE  # the drawn face is in the middle of its frame
    assert abs((left + right) / 2 - SIZE / 2) < 4
    assert Box(80, 96, 0, 20).square(96) == Box(66, 96, 0, 30)
    assert Box(10, 20, 30, 40).square(96) == Box(7, 22, 27, 42)


def test_no_face_is_an_error_of_the_truth_and_no_lips_of_a_generator():
    pytest.importorskip("mediapipe")
    empty = torch.zeros(3, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="expected a face in every frame, found one in 0 of 3"):
        mouth_box(empty)
    assert lips_of(empty).tolist() == [[0, 0]] * 3


def test_lips_do_not_depend_on_the_size_of_the_frame(face):
    lips = lips_of(face)
    assert np.ptp(lips[:, 0]) > 0.02  # it speaks
    larger = lips_of(resize(face, 2 * SIZE, 2 * SIZE))
    assert np.corrcoef(lips[:, 0], larger[:, 0])[0, 1] > 0.9
    assert lips.mean(0) == pytest.approx(larger.mean(0), rel=0.15)


def test_correlation_and_its_gain():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(120, 2))
    noise = rng.normal(size=(120, 2))
    better = np.stack([3 * truth[:, 0] + 7, truth[:, 1] + noise[:, 1]], axis=1)
    found = compare_lips(truth, noise, better, seed=0)
    for axis, name in enumerate(("opening", "width")):
        for run, lips in (("reconstruction", noise), ("unisync", better)):
            expected = np.corrcoef(truth[:, axis], lips[:, axis])[0, 1]
            assert getattr(found[name], run).value == pytest.approx(expected)
    both = (found["opening"].change.value + found["width"].change.value) / 2
    assert found["mean"].change.value == pytest.approx(both)
    assert 0 < found["mean"].change.low < both < found["mean"].change.high
    none = compare_lips(truth, noise, np.ones_like(truth), seed=0)["opening"].unisync
    assert none.value == none.low == none.high == 0  # still lips follow nothing


def test_mean_over_time():
    measure = mean_over_time(np.arange(100.0), seed=0)
    assert measure.value == pytest.approx(49.5)
    assert 20 < measure.low < 49.5 < measure.high < 80  # ten blocks of a trend
