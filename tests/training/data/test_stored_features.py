"""Stored coefficients and parsing maps: which clips have them, and of which size."""

import numpy as np
import pytest
from helpers.small_store import write_feature_store

from unisync_loss.training.data.loading import list_folders
from unisync_loss.training.data.stored_features import stored_width
from unisync_loss.video.clip import Clip


def test_clips_without_the_features_are_named(tmp_path):
    clip = Clip(np.zeros((10, 192, 192, 3), np.uint8), np.zeros(6400, np.float32))
    wide, narrow, bare = (tmp_path / name for name in ("wide", "narrow", "bare"))
    for root, width in ((wide, 64), (narrow, 50)):
        made = {"3dmm": lambda rng, frames, width=width: rng.normal(size=(frames, width))}
        write_feature_store(root, {f"a/{root.name}/0": clip}, **made)
    write_feature_store(bare, {"a/bare/0": clip})
    assert stored_width(list_folders([wide]), "3dmm") == 64
    assert stored_width(list_folders([bare]), "3dmm") is None
    with pytest.raises(ValueError, match=r"of one size in every clip .* got 64 in a/wide/0\.mp4, 50 in a/narrow/0"):
        stored_width(list_folders([wide, narrow]), "3dmm")
    with pytest.raises(ValueError, match=r"got 64 in a/wide/0\.mp4, none in a/bare/0"):
        stored_width(list_folders([wide, bare]), "3dmm")
