"""A HuBERT from the layers of a tiny random Whisper."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT

from research.audio_students.from_whisper import WhisperFront, band_filters, build_hubert
from tools.synthetic.voice import random_sentence, random_voice, synthesize_voice
from unisync_loss.representations import HubertEncoder, WhisperEncoder
from unisync_loss.representations.hubert_encoder import standardise
from unisync_loss.video.encoding import encode_wav


@pytest.fixture(scope="module")
def whisper(tiny_whisper):
    return WhisperEncoder.from_pretrained(tiny_whisper, layer=2).network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    for number in range(3):
        rng = np.random.default_rng([4, number])
        voice = random_voice(rng)
        path = root / "drawn" / f"s{number}" / "0.wav"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_wav(synthesize_voice(rng, voice, random_sentence(rng, voice, 5.0))))
    return root


@torch.no_grad()
def through(hubert, hidden):
    for layer in hubert.encoder.layers:
        found = layer(hidden)
        hidden = found if isinstance(found, torch.Tensor) else found[0]  # by the version of transformers
    return hidden


@torch.no_grad()
def test_layers_are_those_of_whisper(whisper):
    hidden = torch.randn(2, 30, 32)
    expected = whisper.layers[1](whisper.layers[0](hidden))
    assert torch.allclose(through(build_hubert(whisper, 2, 48).eval(), hidden), expected, atol=1e-5)
    assert not torch.allclose(through(build_hubert(whisper, 2, 40).eval(), hidden), expected, atol=1e-3)


@torch.no_grad()
def test_the_largest_units_are_kept(tiny_whisper):
    whisper = WhisperEncoder.from_pretrained(tiny_whisper, layer=1).network
    whisper.layers[0].fc2.weight[:, torch.arange(3, 48, 6)] = 0  # 8 units without effect
    hidden = torch.randn(2, 30, 32)
    assert torch.allclose(through(build_hubert(whisper, 1, 40).eval(), hidden), whisper.layers[0](hidden), atol=1e-5)


def test_more_units_than_there_are(whisper):
    with pytest.raises(ValueError, match="inner: expected at most 48, got 49"):
        build_hubert(whisper, 2, 49)


@torch.no_grad()
def test_target_is_the_input_of_the_first_layer(tiny_whisper):
    encoder = WhisperEncoder.from_pretrained(tiny_whisper, layer=0)
    wave = standardise(torch.randn(1, 16000))
    front = WhisperFront(encoder.network)(wave)
    expected = encoder(0.05 * wave) - encoder.network.positions[:50]
    # the last steps reach into the silence that the encoder adds
    assert torch.allclose(front[:, :48], expected[:, :48], atol=1e-4)


def test_bands_cover_the_spectrum():
    filters = band_filters(320, 240)
    assert filters.shape == (320, 240)
    assert torch.allclose(filters[:80], -filters[160:240], atol=1e-5)  # opposite phases
    response = torch.fft.rfft(filters[:80], 1600).abs().square()
    peaks = response.argmax(1) * 10  # Hz
    assert (peaks.diff() >= 0).all()
    assert peaks[0] < 100
    assert peaks[-1] > 7000
    assert (response.sum(0)[10:-40] > 0.1 * response.sum(0).median()).all()


def test_the_command(tiny_whisper, folder, tmp_path):
    options = ["--data", folder, "--cache", tmp_path / "cache", "--layers", 2, "--inner", 40, "--batch-seconds", 5]
    command = [sys.executable, "-m", "research.audio_students.from_whisper", tiny_whisper]

    def error_after(steps):
        arguments = [*command, tmp_path / "hubert", *options, "--steps", steps]
        done = subprocess.run(list(map(str, arguments)), cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return float(done.stdout.rpartition("error ")[2])

    assert error_after(60) < 0.8 * error_after(2)
    features = HubertEncoder.from_pretrained(tmp_path / "hubert")(torch.randn(1, 25 * 640))
    assert features.shape == (1, 50, 32)


def test_the_command_names_what_is_wrong(tmp_path):
    command = [
        sys.executable,
        "-m",
        "research.audio_students.from_whisper",
        "gone",
        "out",
        "--data",
        "x",
        "--cache",
        "y",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("from_whisper: Whisper gone@main")
