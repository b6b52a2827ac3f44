"""Training of the pairs that look at points: landmarks, coefficients, parsing maps; and of those that hear HuBERT."""

import json

import numpy as np
import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert, load_expert, save_pretrained
from unisync_loss.data.clips import list_clips
from unisync_loss.evaluation.embeddings import embed_clips
from unisync_loss.training.config import TrainConfig, expert_config
from unisync_loss.training.data.cache import load
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.face_features import features_of_mesh
from unisync_loss.training.model import copy_towers
from unisync_loss.training.trainer import train

WIDTH = 32


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    """A small random HuBERT."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(1)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    path = tmp_path_factory.mktemp("hubert")
    config = HubertConfig(**sizes, conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    HubertModel(config).save_pretrained(path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(path)
    return path


def run(folder, cache, out, audio, visual, **changes):
    steps = {"align_steps": 1, "geometry_steps": 1, "sync_steps": 1, "joint_steps": 1, "steps": 2}
    values = {"data": (str(folder),), "val": str(folder), "out": str(out), "cache": str(cache), "clips": 3}
    config = TrainConfig(**{**values, **steps, "val_every": 2, "workers": 1, **changes})
    lines = []
    train(config, expert_config(audio, visual), resume=False, log=lines.append)
    return lines


class TestRun:
    @pytest.mark.parametrize("visual", ["landmarks", "3dmm", "parsing"])
    def test_pairs_without_colours_have_one_stage(self, folder, cache, tmp_path, visual):
        run(folder, cache, tmp_path / "run", "mel", visual)
        expert = load_expert(tmp_path / "run" / "best")
        assert expert.config.visual == visual
        log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert {record["stage"] for record in log} == {"sync"}
        clip = next(embed_clips(expert, list_clips(folder)[:1]))
        assert clip.visual.shape == clip.audio.shape == (26, 512)

    def test_coefficients_are_standardised_by_the_training_clips(self, folder, cache, tmp_path):
        run(folder, cache, tmp_path / "run", "mel", "3dmm")
        expert = load_expert(tmp_path / "run" / "last")
        stored = [load(entry, cache, "mesh") for entry in list_clips(folder)]
        values = [features_of_mesh(expert.config, clip["mesh"], clip["size"])[:, 0] for clip in stored]
        assert np.allclose(expert.visual_input.mean.numpy(), np.concatenate(values).mean(0), atol=1e-4)
        assert np.allclose(expert.visual_input.deviation.numpy(), np.concatenate(values).std(0, ddof=1), rtol=1e-3)

    @pytest.mark.parametrize("visual", ["landmarks", "rgb"])
    def test_hubert(self, folder, cache, hubert, tmp_path, visual):
        run(folder, cache, tmp_path / "run", "hubert", visual, hubert=str(hubert))
        expert = load_expert(tmp_path / "run" / "last")
        config = expert.config
        assert (config.audio, config.audio_features, config.hubert_model) == ("hubert", WIDTH, str(hubert))
        assert len(config.hubert_revision) == 64  # a folder's weights are told by their sha256
        assert (config.margin_same, config.margin_cross) == (0.3, 0.7)
        assert len(list((cache / "hubert").iterdir())) == 6
        clip = next(embed_clips(expert, list_clips(folder)[:1]))
        assert clip.visual.shape == clip.audio.shape == (26, 512)

    def test_features_of_a_segment_are_those_of_the_clip(self, folder, cache, hubert):
        from unisync_loss.training.model import build_hubert

        config, listen = build_hubert(expert_config("hubert", "landmarks"), str(hubert), cache / "hubert")
        data = CachedClipDataset.from_cache(list_clips(folder), cache, config, 13, listen)
        part, whole = (data.segments(np.array([2]), np.array([start]), size) for start, size in ((7, 13), (0, 30)))
        assert whole.audio.shape == (1, 60, WIDTH)
        assert torch.equal(part.audio[0], whole.audio[0, 14:40])

    def test_a_hubert_for_mel_is_refused(self, folder, cache, hubert, tmp_path):
        with pytest.raises(ValueError, match="for an expert on hubert only"):
            run(folder, cache, tmp_path / "run", "mel", "landmarks", hubert=str(hubert))
        assert not (tmp_path / "run").exists()


class TestInit:
    def test_towers_that_fit_are_taken_over(self, tmp_path):
        save_pretrained(UniSyncExpert(UniSyncConfig(embedding=16)), tmp_path)
        fresh = UniSyncExpert(UniSyncConfig(embedding=16, audio="hubert"))
        before = {key: value.clone() for key, value in fresh.audio_tower.state_dict().items()}
        assert copy_towers(fresh, str(tmp_path)) == {"visual"}
        theirs = load_expert(tmp_path).visual_tower.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in fresh.visual_tower.state_dict().items())
        assert all(torch.equal(value, before[key]) for key, value in fresh.audio_tower.state_dict().items())

    def test_nothing_in_common(self, tmp_path):
        save_pretrained(UniSyncExpert(UniSyncConfig(embedding=16, visual="landmarks")), tmp_path)
        with pytest.raises(ValueError, match="shares a tower with small hubert-rgb, got small mel-landmarks"):
            copy_towers(UniSyncExpert(UniSyncConfig(embedding=16, audio="hubert")), str(tmp_path))

    def test_on_colours_only_the_last_stage_is_left(self, folder, cache, tmp_path):
        lines = run(folder, cache, tmp_path / "run", "mel", "rgb", init=("mel-rgb",))
        log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert {record["stage"] for record in log} == {"joint"}
        assert any("taken over from mel-rgb: audio and visual" in line for line in lines)

    def test_an_ear_alone_finds_no_mouth(self, folder, cache, tmp_path):
        save_pretrained(UniSyncExpert(UniSyncConfig(visual="landmarks")), tmp_path / "ear")
        with pytest.raises(ValueError, match="expected one that sees rgb, too"):
            run(folder, cache, tmp_path / "run", "mel", "rgb", init=(str(tmp_path / "ear"),))
        assert not (tmp_path / "run").exists()

    def test_stages_without_steps_are_left_out(self, folder, cache, tmp_path):
        lines = run(folder, cache, tmp_path / "run", "mel", "rgb", align_steps=0, sync_steps=0)
        log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert list(dict.fromkeys(record["stage"] for record in log)) == ["geometry", "joint"]
        assert (tmp_path / "run" / "curves.png").exists()
        # no aligner: nobody could find the mouths in the files
        assert not any("choosing the threshold" in line for line in lines)
        lines = run(folder, cache, tmp_path / "aligned", "mel", "rgb", geometry_steps=0, sync_steps=0)
        assert any("choosing the threshold" in line for line in lines)

    def test_nothing_to_do(self, folder, cache, tmp_path):
        with pytest.raises(ValueError, match="steps: expected some of a stage that learns sync, got 0"):
            run(folder, cache, tmp_path / "run", "mel", "rgb", sync_steps=0, joint_steps=0)
        with pytest.raises(ValueError, match="joint_steps: expected 0 or more, got -1"):
            run(folder, cache, tmp_path / "run", "mel", "rgb", joint_steps=-1)
        assert not (tmp_path / "run").exists()

    def test_audio_of_one_and_visual_of_another_with_audio_frozen(self, folder, cache, tmp_path):
        """The frozen tower stays the same to the bit, batch norm statistics included; the other tower learns."""
        for name, visual in (("ear", "rgb"), ("eye", "landmarks")):
            save_pretrained(UniSyncExpert(UniSyncConfig(visual=visual)), tmp_path / name)
        both = (str(tmp_path / "ear"), str(tmp_path / "eye"))
        lines = run(folder, cache, tmp_path / "run", "mel", "landmarks", init=both, freeze="audio", steps=3, ema=0.0)
        assert any("ear: audio" in line for line in lines)
        assert any("eye: audio and visual" in line for line in lines)
        trained, eye = load_expert(tmp_path / "run" / "last").state_dict(), load_expert(both[1]).state_dict()
        changed = {key.split("_")[0] for key, value in trained.items() if not torch.equal(value, eye[key])}
        assert changed == {"visual"}

    def test_nothing_to_freeze(self, folder, cache, tmp_path):
        with pytest.raises(ValueError, match="expected an expert to take the audio tower from"):
            run(folder, cache, tmp_path / "run", "mel", "landmarks", freeze="audio")
        save_pretrained(UniSyncExpert(UniSyncConfig()), tmp_path / "ear")
        with pytest.raises(ValueError, match=r"freeze: expected a tower taken over \(audio\), got visual"):
            run(folder, cache, tmp_path / "run", "mel", "landmarks", init=(str(tmp_path / "ear"),), freeze="visual")
