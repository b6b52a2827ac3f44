"""Landmarks, coefficients and parsing maps made from cached meshes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.visuals import visual_of_frames

from unisync_loss import UniSyncConfig, UniSyncExpert
from unisync_loss.data.clips import list_clips, load_clip
from unisync_loss.models.small import MOUTH_SIZE
from unisync_loss.representations.parsing import mouth_of_maps
from unisync_loss.training.data.cache import build_cache, cache_path, load
from unisync_loss.training.data.face_features import features_of_mesh, rings_of, shape_and_place, visual_of_features
from unisync_loss.training.settings import expert_config
from unisync_loss.video.expressions import mirrored_points


def mesh_features(config, entry, cache):
    stored = load(entry, cache, "mesh")
    return features_of_mesh(config, stored["mesh"], stored["size"])


@pytest.mark.parametrize(
    "config",
    [
        UniSyncConfig(visual="landmarks"),
        UniSyncConfig(visual="landmarks", visual_features=60),
        expert_config("mel", "3dmm"),
    ],
    ids=["68", "20 in 3-D", "3dmm"],
)
def test_inputs_are_those_of_scoring(folder, cache, config):
    entry = list_clips(folder)[0]
    values = torch.from_numpy(mesh_features(config, entry, cache))
    expert = UniSyncExpert(config)
    ours = expert.visual_input(visual_of_features(config, values[None, :, 0]))
    theirs = expert.visual_input(visual_of_frames(config, load_clip(entry).frames))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 0.02 * max(1.0, theirs.abs().max())


def test_parsing_maps_are_those_of_scoring(folder, cache):
    config, entry = UniSyncConfig(visual="parsing", architecture="paper"), list_clips(folder)[0]
    values = torch.from_numpy(mesh_features(config, entry, cache))
    theirs = visual_of_frames(config, load_clip(entry).frames)
    assert (visual_of_features(config, values[None, :, 0]) - theirs).abs().mean() < 2e-3
    assert (visual_of_features(config, values[None, :, 1]) - theirs.flip(-1)).abs().mean() < 0.05
    mouths = visual_of_features(replace(config, architecture="small"), values[None, :, 0])[0]
    assert (mouths - mouth_of_maps(theirs[0], MOUTH_SIZE)).abs().mean() < 0.01


def test_the_mirror_changes_sides(folder, cache):
    config = UniSyncConfig(visual="landmarks")
    filmed, mirrored = np.moveaxis(mesh_features(config, list_clips(folder)[0], cache), 1, 0)
    filmed, mirrored = filmed.reshape(-1, 68, 2), mirrored.reshape(-1, 68, 2)
    for right, left in ((36, 45), (48, 54), (60, 64), (8, 8), (0, 16), (30, 30)):  # iBUG's pairs
        assert np.allclose(mirrored[:, right], filmed[:, left] * [-1, 1], atol=0.02)
    assert sorted(mirrored_points()) == list(range(468))


def test_a_mesh_alone_stores_no_mouth(folder, tmp_path):
    entries = list_clips(folder)[:1]
    *_, (_, _, skipped) = build_cache(entries, tmp_path, 1, "mesh")
    assert skipped == {}
    assert cache_path(entries[0], tmp_path, "mesh").exists()
    assert not cache_path(entries[0], tmp_path, "mouth").exists()
    assert load(entries[0], tmp_path, "mesh")["mesh"].dtype == np.float16


def test_shape_and_place_are_the_points():
    rings = torch.randn(3, 13, 98, 2).double()
    values = shape_and_place(rings)
    assert torch.allclose(rings_of(values), rings)
    moved = shape_and_place(2 * rings + torch.tensor([0.1, 0.3]))
    assert torch.allclose(moved[..., :-3], values[..., :-3])
    assert not torch.allclose(moved[..., -3:], values[..., -3:], atol=0.05)
