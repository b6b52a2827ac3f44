"""Whisper's spectrogram and encoder against transformers, on the 30 s that it takes."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.whisper import peer_states
from safetensors.torch import load_file
from torch.nn import functional as F

from tools.synthetic.voice import random_sentence, random_voice, synthesize_voice
from unisync_loss.representations.whisper_encoder import read_size
from unisync_loss.representations.whisper_network import WhisperNetwork, WhisperSpectrogram

SAMPLES = 480_000


@pytest.fixture(params=["noise", "voice"])
def waveform(request):
    """Four seconds."""
    rng = np.random.default_rng(0)
    if request.param == "noise":
        return torch.from_numpy(0.1 * rng.standard_normal(64_000).astype(np.float32))[None]
    voice = random_voice(rng)
    return torch.from_numpy(synthesize_voice(rng, voice, random_sentence(rng, voice, 4.0)))[None]


@pytest.mark.parametrize("bins", [80, 128])
def test_spectrogram_equals_transformers(waveform, bins):
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=bins)
    expected = extractor(waveform[0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    own = WhisperSpectrogram(bins)(F.pad(waveform, (0, SAMPLES - waveform.shape[1])))
    assert own.shape == expected.shape == (1, bins, 3000)
    assert (own - expected).abs().max() < 1e-4
    assert expected.std() > 0.1


def test_the_loudest_of_each_clip_is_its_own():
    waveforms = torch.randn(3, 16000) * torch.tensor([[1.0], [0.01], [0.1]])
    spectrogram = WhisperSpectrogram()
    assert torch.equal(spectrogram(waveforms), torch.cat([spectrogram(each[None]) for each in waveforms]))


def test_all_hidden_states_equal_transformers(tiny_whisper, waveform):
    size = read_size(json.loads((tiny_whisper / "config.json").read_text()))
    network = WhisperNetwork(size).eval()
    tensors = load_file(tiny_whisper / "model.safetensors")
    network.load_state_dict({key: tensors[f"encoder.{key}"] for key in network.state_dict()})
    with torch.no_grad():
        own = network(WhisperSpectrogram()(F.pad(waveform, (0, SAMPLES - waveform.shape[1]))))
    expected = peer_states(tiny_whisper, waveform, SAMPLES)
    assert len(own) == len(expected) == size.encoder_layers + 1
    for ours, theirs in zip(own, expected, strict=True):
        assert ours.shape == theirs.shape == (1, 1500, size.d_model)
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    changes = [(after - before).abs().mean() for before, after in pairwise(own)]
    assert min(changes) > 0.1  # every layer does something


def test_first_layers_only(tiny_whisper):
    size = read_size(json.loads((tiny_whisper / "config.json").read_text()))
    network = WhisperNetwork(size, 1)
    assert [key for key in network.state_dict() if key.startswith(("layers.1", "layer_norm"))] == []
    assert len(network(torch.randn(1, 80, 20))) == 2
