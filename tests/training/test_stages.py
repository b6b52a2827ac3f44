"""Stages that learn sync: contrast of all pairs, random pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.functional import sync_probability
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.pairs import POSITIVE, PairSampling
from unisync_loss.training.losses import all_pairs, pair_kinds
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch
from unisync_loss.training.stages import BatchSize, RandomPairStage, sync_terms


@pytest.fixture(scope="module")
def data(folder, cache):
    return CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)


def test_mismatches_of_a_clip_are_min_shift_apart(data):
    torch.manual_seed(0)
    model = TrainingModel(UniSyncConfig(visual="landmarks", embedding=16)).eval()
    batch, visual = data.segments(np.array([2]), np.array([0]), 13), torch.rand(1, 9, 16)
    probability = all_pairs(encode_audio_batch(model, batch, augmented=False)[0], visual[0])
    apart = (torch.arange(9)[:, None] - torch.arange(9)).abs()
    for shift in (2, 4):
        size = BatchSize(min_shift=shift, skip_silence=False, augment=False)
        terms = sync_terms(model, batch, encode_audio_batch(model, batch, augmented=False), visual, size)
        assert terms["p_same"].item() == pytest.approx(probability[apart >= shift].mean().item(), rel=1e-5)


def test_all_pairs_know_which_windows_are_silent(folder, cache):
    quiet = CachedClipDataset.from_cache(list_clips(folder), cache, UniSyncConfig(), 13)
    quiet.store.voiced = np.arange(len(quiet.store.voiced)) % 3 > 0
    batch = quiet.segments(np.array([2]), np.array([7]), 13)
    assert batch.silent[0].tolist() == [(quiet.store.first_frame[2] + 7 + window) % 3 == 0 for window in range(9)]
    torch.manual_seed(0)
    model = TrainingModel(UniSyncConfig(visual="landmarks", embedding=16)).eval()
    size = BatchSize(augment=False)
    visual = torch.randn(2, 9, 16)
    batch = replace(quiet.segments(np.array([0, 2]), np.array([0, 7]), 13), silent=torch.ones(2, 9, dtype=torch.bool))
    audio = encode_audio_batch(model, batch, augmented=False)
    asked, spared = (
        sync_terms(model, batch, audio, visual, replace(size, skip_silence=skip)) for skip in (False, True)
    )
    assert torch.isnan(spared["p_same"])  # nothing is left to compare
    assert torch.isfinite(spared["loss"])
    assert torch.isfinite(asked["p_same"])


def test_cross_speaker_pairs_really_are_of_two_speakers(data):
    batch = data.draw(np.random.default_rng(0), 6, 2, 13)
    clip, speaker, time = batch.window_labels()
    kinds = pair_kinds(clip, speaker, time)
    names = [data.entries[index].speaker for index in clip.tolist()]
    rows, columns = kinds.cross.nonzero(as_tuple=True)
    assert len(rows) > 0
    assert all(names[i] != names[j] for i, j in zip(rows.tolist(), columns.tolist(), strict=True))


def test_negatives_of_two_silences_have_no_weight(data):
    torch.manual_seed(0)
    model = TrainingModel(UniSyncConfig(embedding=16)).eval()
    stage = RandomPairStage(PairSampling(), 16, augment=False, skip_silence=True)
    batch = replace(stage.draw(data, np.random.default_rng(0)), silent=torch.ones(16, dtype=torch.bool))
    with torch.no_grad():
        visual = encode_visual_batch(model, batch, augmented=False)[:, 0]
        audio = encode_audio_batch(model, batch, augmented=False)[:, 0]
        matches = sync_probability(audio, visual)[batch.kind == POSITIVE]
        assert stage.loss(model, batch)["loss"].item() == pytest.approx(-matches.log().mean().item(), rel=1e-5)
        everything = replace(stage, skip_silence=False).loss(model, batch)["loss"].item()
    assert everything != pytest.approx(-matches.log().mean().item(), rel=1e-3)
