"""Features of both encoders in a cache, and precomputed ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from unisync_loss.representations import HubertEncoder, WhisperEncoder
from unisync_loss.representations.audio_encoder import cached_features, read_features


@pytest.fixture(params=[HubertEncoder, WhisperEncoder])
def encoder_type(request):
    return request.param


@pytest.fixture
def folder(encoder_type, tiny_hubert, tiny_whisper):
    return tiny_hubert if encoder_type is HubertEncoder else tiny_whisper


@pytest.fixture
def waveform():
    return 0.3 * torch.randn(1, 16000)


def test_encoders_have_keys_of_their_own(tiny_hubert, tiny_whisper):
    encoders = HubertEncoder.from_pretrained(tiny_hubert), WhisperEncoder.from_pretrained(tiny_whisper)
    for encoder in encoders:
        encoder.identity = "the same"
    assert len({encoder.cache_key(50) for encoder in encoders}) == 2


class TestCache:
    def test_second_time_is_read(self, encoder_type, folder, waveform, tmp_path, monkeypatch):
        encoder, samples = encoder_type.from_pretrained(folder), waveform[0].numpy()
        computed = cached_features(samples, encoder, tmp_path / "cache")
        assert np.array_equal(computed, encoder(waveform)[0].numpy())
        monkeypatch.setattr(encoder_type, "forward", None)
        assert np.array_equal(cached_features(samples, encoder, tmp_path / "cache"), computed)
        assert len(list((tmp_path / "cache").iterdir())) == 1

    def test_everything_that_matters_is_in_the_key(self, encoder_type, folder, waveform, tmp_path):
        samples = waveform[0].numpy()
        other = Path(shutil.copytree(folder, tmp_path / "other"))
        weights = (other / "model.safetensors").read_bytes()
        (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
        encoders = [
            encoder_type.from_pretrained(folder),
            encoder_type.from_pretrained(folder, layer=1),
            encoder_type.from_pretrained(folder, dtype=torch.bfloat16),
            encoder_type.from_pretrained(other),
        ]
        for encoder in encoders:
            cached_features(samples, encoder, tmp_path / "cache")
        cached_features(samples + np.float32(1e-6), encoders[0], tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == 5

    def test_interrupted_writing_leaves_nothing(self, encoder_type, folder, waveform, tmp_path, monkeypatch):
        def half(path, array):
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "save", half)
        with pytest.raises(KeyboardInterrupt):
            cached_features(waveform[0].numpy(), encoder_type.from_pretrained(folder), tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []

    def test_precomputed_file(self, tmp_path):
        features = np.random.default_rng(0).normal(size=(9, 1024)).astype(np.float16)
        np.save(tmp_path / "clip_hubert.npy", features)
        read = read_features(tmp_path / "clip_hubert.npy", 1024)
        assert read.dtype == np.float32
        assert np.array_equal(read, features)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (np.zeros((9, 768), np.float32), r"\(L, 1024\), got \(9, 768\), which looks like HuBERT base"),
            (np.zeros((9, 2, 1024), np.float32), r"got \(9, 2, 1024\)"),
            (np.zeros((9, 1024), np.int64), "got .*int64"),
            (np.array({"hubert": 1}, object), "expected an array in an .npy file, got none.*allow_pickle"),
        ],
    )
    def test_wrong_file(self, tmp_path, content, message):
        np.save(tmp_path / "clip.npy", content, allow_pickle=True)
        with pytest.raises(ValueError, match=f"clip.npy: .*{message}"):
            read_features(tmp_path / "clip.npy", 1024)
