"""Batches: counts and labels of windows, tensors for a device or a file."""

import torch

from unisync_loss.training.data.batches import AlignerBatch, PairBatch, SegmentBatch
from unisync_loss.training.data.visual_frames import FaceCrops

CROPS = FaceCrops(torch.zeros(2, 7, 96, 96, 3, dtype=torch.uint8))
SEGMENTS = SegmentBatch(
    visual=CROPS,
    audio=torch.zeros(2, 80, 22),
    clip=torch.tensor([4, 1]),
    speaker=torch.tensor([2, 0]),
    start=torch.tensor([10.0, 3.5]),
    tempo=torch.tensor([1.0, 1.5]),
    silent=torch.zeros(2, 3, dtype=torch.bool),
    length=7,
)


def test_windows_of_segments():
    assert (SEGMENTS.frames, SEGMENTS.windows) == (7, 6)
    clip, speaker, time = SEGMENTS.window_labels()
    assert clip.tolist() == [4, 4, 4, 1, 1, 1]
    assert speaker.tolist() == [2, 2, 2, 0, 0, 0]
    assert time.tolist() == [10.0, 11.0, 12.0, 3.5, 5.0, 6.5]  # in frames of the clip


def test_windows_of_pairs_and_views():
    pairs = PairBatch(CROPS, torch.zeros(3, 80, 16), kind=torch.zeros(3), silent=torch.zeros(3, dtype=torch.bool))
    assert (pairs.frames, pairs.windows) == (5, 3)
    assert AlignerBatch(torch.zeros(4, 3, 96, 96), torch.zeros(4, 2, 3)).windows == 4


def test_tensors_of_nested_data():
    tensors = SEGMENTS.tensors()
    assert set(tensors) == {"audio", "crops", "clip", "speaker", "start", "tempo", "silent"}
    moved = SEGMENTS.to(torch.device("cpu"))
    assert moved.length == 7
    assert torch.equal(moved.visual.crops, CROPS.crops)
