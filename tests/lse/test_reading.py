"""Crops for SyncNet, in this process and in another."""

import numpy as np
import pytest
from helpers.lse_videos import noise, write_lossless
from helpers.media import write_at

from unisync_loss.lse.crops import resize_frame
from unisync_loss.lse.reading import read_crops
from unisync_loss.utils.process_pool import iterate


@pytest.mark.parametrize("isolated", [False, True])
def test_the_whole_image(tmp_path, isolated):
    frames, samples = noise(12)
    write_lossless(tmp_path / "a.mkv", frames, samples)
    opened, spans, *steps = iterate(read_crops, tmp_path / "a.mkv", None, isolated=isolated)
    assert (opened.facts.zero, spans) == (0, [(0, None)])
    assert [step.share for step in steps] == pytest.approx(np.arange(1, 13) / 12, abs=0.03)
    for step, frame in zip(steps, frames, strict=True):
        ((number, crop),) = step.crops
        assert number == 0
        assert np.array_equal(crop, resize_frame(frame).numpy())


def test_a_long_gap_is_refused(tmp_path):
    """It would be thousands of equal frames, each through the network."""
    write_at(tmp_path / "a.mkv", [*np.arange(20) / 25, *(60 + np.arange(20) / 25)])
    with pytest.raises(ValueError, match="expected a clip without gaps of over 10 s"):
        list(read_crops(tmp_path / "a.mkv", None))
