"""`benchmarks/teacher_measures.py` with an expert that is linear in the frames."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.paths import ROOT

pytest.importorskip("mediapipe")
sys.path.insert(0, str(ROOT / "benchmarks"))
import teacher_measures
from teacher_measures import (
    LARGEST,
    RADII,
    REFERENCES,
    attack,
    chroma_share,
    describe_gradient,
    high_share,
    measure_segment,
    reference_rows,
)

FRAMES = 9


class Linear:
    """p = 1/2 + audio * mean of weight * (frame - 1/2), of the first frame of each window."""

    threshold = 0.5

    def __init__(self, weight):
        self.weight = weight  # (3, 96, 96)

    def encode_audio(self, waveform, frames):
        return torch.arange(frames - 4.0)[None] + 1

    def probability(self, video, audio):
        return 0.5 + audio * (self.weight * (video[:, :-4] - 0.5)).mean((2, 3, 4))

    def loss(self, video, audio):
        return -self.probability(video, audio).mean()


def make_segment(given, wanted):
    return SimpleNamespace(
        given=given,
        wanted=wanted,
        waveform=torch.zeros(1, 640 * 40),
        frames=40,
        start=10,
        seed=3,
        mouth=(slice(48, 80), slice(32, 64)),
        opening=np.zeros(FRAMES, np.float32),
        opening_wanted=np.ones(FRAMES, np.float32),
    )


@pytest.fixture
def weight():
    return torch.randn(3, 96, 96) / 10


@pytest.fixture
def segment(weight):
    given = torch.full((FRAMES, 3, 96, 96), 0.5)
    return make_segment(given, given + 0.1 * weight)


@pytest.fixture(autouse=True)
def brightness(monkeypatch):
    """The lip opening is the mean of each frame: what is measured here are no faces."""
    monkeypatch.setattr(teacher_measures, "measure_opening", lambda video: video.mean((1, 2, 3)).numpy())


def test_gain_of_attacks(weight, segment):
    row = measure_segment(Linear(weight), segment)
    right, late = np.arange(11, 16), np.arange(3, 8)  # audio of the windows from frames 10 and 2
    size = weight.abs().mean().item()
    pooled = teacher_measures.pool(weight[None, None], 8).abs().mean().item()
    assert row["in_sync"]["clean"] == row["late"]["clean"] == [0.5] * 5
    for radius in RADII:
        for kind in ("step", "PGD"):
            name = f"{kind} {radius}"
            assert row["in_sync"][name] == pytest.approx(0.5 - radius / 255 * size * right, abs=1e-4)
            assert row["late"][name] == pytest.approx(0.5 + radius / 255 * size * late, abs=1e-4)
    assert row["in_sync"]["blocks 8"] == pytest.approx(0.5 - LARGEST / 255 * pooled * right, abs=1e-4)
    assert row["late"]["blocks 8"] == pytest.approx(0.5 + LARGEST / 255 * pooled * late, abs=1e-4)


def test_lips_are_measured_on_the_strongest_attack(weight, segment):
    teacher = Linear(weight.abs())  # raising p brightens every pixel of the frames that count
    row = measure_segment(teacher, segment)
    assert row["opening_change"][:5] == pytest.approx([0.5 + LARGEST / 255] * 5, abs=1e-4)
    assert row["opening_wanted"] == [1] * FRAMES


def test_the_direction_is_that_of_late_audio(weight):
    given = torch.full((FRAMES, 3, 96, 96), 0.5)
    change = torch.zeros_like(given)
    change[:5] = torch.arange(3.0, 8)[:, None, None, None] * weight  # proportional to minus the gradient
    for sign in (1, -1):
        row = measure_segment(Linear(weight), make_segment(given, given + sign * 0.01 * change))
        assert row["cosine"] == pytest.approx(sign, abs=1e-3)
        assert row["cosine_8"] == pytest.approx(sign, abs=1e-3)


def test_only_the_mouth_region_counts(segment, weight):
    direction = (segment.wanted - segment.given).clone()
    direction[..., :48, :] *= -5
    assert describe_gradient(direction, segment)["cosine"] == pytest.approx(1, abs=1e-5)


def test_cosine_of_halves(segment):
    direction = torch.zeros_like(segment.given)
    direction[:, 0] = 1
    segment.wanted = segment.given + 0.1
    row = describe_gradient(direction, segment)
    assert (row["cosine"], row["cosine_8"]) == pytest.approx((1 / 3**0.5, 1 / 3**0.5), abs=1e-4)
    assert row["chroma"] == pytest.approx(2 / 3, abs=1e-6)


def test_chroma_of_grey_is_0():
    grey = torch.randn(FRAMES, 1, 96, 96).expand(-1, 3, -1, -1)
    assert chroma_share(grey) == pytest.approx(0, abs=1e-12)
    cast = torch.tensor([1.0, 0.0, -1.0]).reshape(3, 1, 1)
    assert chroma_share(torch.ones(FRAMES, 3, 96, 96) * cast) == 1


def test_high_frequencies():
    x = torch.arange(96.0)
    for cycles, expected in ((4, 0.0), (24, 1.0)):
        wave = torch.cos(2 * torch.pi * cycles * x / 96).expand(FRAMES, 3, 96, 96)
        assert high_share(wave) == pytest.approx(expected, abs=1e-6)
    # the disk of frequencies within a quarter of the highest covers π / 64 of the plane
    assert high_share(torch.randn(FRAMES, 3, 96, 96)) == pytest.approx(1 - np.pi / 64, abs=0.01)


def test_tiny_gradients_keep_their_shares(weight):
    assert chroma_share(1e-25 * weight[None]) == pytest.approx(chroma_share(weight[None]), rel=1e-3)


def test_references(segment):
    rows = reference_rows(segment)
    assert list(rows) == list(REFERENCES)
    assert rows["wanted change"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert abs(rows["random noise"]["cosine"]) < 0.02
    assert rows["random noise"]["chroma"] == pytest.approx(2 / 3, abs=0.01)


def test_starts_differ_by_seed(weight):
    video = torch.rand(FRAMES, 3, 96, 96)
    audio = torch.ones(1, 5)
    one, again, other = (attack(Linear(weight), video, audio, audio, seed)["PGD 8"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)  # the last frames have no gradient and keep their start
