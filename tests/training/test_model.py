"""Networks in training: towers copied from other experts, audio features."""

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert, save_pretrained
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import build_audio_encoder, copy_towers
from unisync_loss.training.settings import expert_config


@pytest.mark.parametrize("audio", ["hubert", "whisper"])
def test_features_of_a_segment_are_those_of_the_clip(folder, cache, audio_models, audio):
    model = audio_models[audio]["audio_model"]
    config, listen = build_audio_encoder(expert_config(audio, "landmarks"), model, cache)
    data = CachedClipDataset.from_cache(list_clips(folder), cache, config, 13, listen)
    part, whole = (data.segments(np.array([2]), np.array([start]), size) for start, size in ((7, 13), (0, 30)))
    assert whole.audio.shape == (1, 60, 32)
    assert torch.equal(part.audio[0], whole.audio[0, 14:40])


def test_matching_towers_are_copied(tmp_path):
    save_pretrained(UniSyncExpert(UniSyncConfig(embedding=16)), tmp_path)
    fresh = UniSyncExpert(UniSyncConfig(embedding=16, audio="hubert"))
    before = {key: value.clone() for key, value in fresh.audio_tower.state_dict().items()}
    assert copy_towers(fresh, str(tmp_path)) == {"visual"}
    theirs = load_expert(tmp_path).visual_tower.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in fresh.visual_tower.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in fresh.audio_tower.state_dict().items())


def test_nothing_in_common(tmp_path):
    save_pretrained(UniSyncExpert(UniSyncConfig(embedding=16, visual="landmarks")), tmp_path)
    with pytest.raises(ValueError, match="shares a tower with small hubert-rgb, got small mel-landmarks"):
        copy_towers(UniSyncExpert(UniSyncConfig(embedding=16, audio="hubert")), str(tmp_path))
