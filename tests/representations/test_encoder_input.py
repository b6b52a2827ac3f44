"""HuBERT and Whisper as an expert's input."""

import pytest
import torch

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.representations import HubertEncoder, WhisperEncoder

WIDTH = 32
ENCODERS = {"hubert": HubertEncoder, "whisper": WhisperEncoder}


@pytest.fixture(params=["hubert", "whisper"])
def audio(request):
    return request.param


@pytest.fixture
def folder(audio, audio_models):
    return audio_models[audio]["audio_model"]


@pytest.fixture
def config(audio, folder):
    def made(**changes):
        values = {"audio_features": WIDTH, "embedding": 8, "audio_model": folder, **changes}
        return UniSyncConfig(audio=audio, **values)

    return made


@pytest.fixture
def waveform():
    """Three seconds whose loudness changes, not zero on average."""
    time = torch.arange(48000) / 16000
    return (0.3 * torch.randn(48000) * (1 + torch.sin(3 * time)) + 0.05)[None]


class TestExpert:
    def test_waveform_and_its_features_are_the_same(self, audio, folder, config, waveform):
        expert = UniSyncExpert(config()).eval()
        video, features = torch.rand(1, 75, 3, 32, 32), ENCODERS[audio].from_pretrained(folder)(waveform)
        with torch.no_grad():
            probability = expert(video, waveform)
            assert probability.shape == (1, 71)
            assert torch.allclose(probability, expert(video, features), atol=1e-5)
            # the step that HuBERT of transformers does not give for exactly T frames
            repeated = torch.cat([features[:, :-1], features[:, -2:-1]], 1)
            assert torch.equal(expert(video, repeated), expert(video, features[:, :-1]))
            with pytest.raises(ValueError, match="expected about 150 steps"):
                expert(video, features[:, :-2])

    def test_the_encoder_is_no_part_of_the_checkpoint(self, audio, folder, config, waveform):
        expert = UniSyncExpert(config())
        before = list(expert.state_dict())
        expert.train().encode_audio(waveform, 75)
        assert list(expert.state_dict()) == before
        assert not expert.audio_input.encoder.network.training

    def test_the_encoder_is_loaded_once_and_moves_with_the_loss(self, audio, folder, config, waveform, monkeypatch):
        loss = UniSyncLoss(UniSyncExpert(config()))
        with torch.inference_mode():
            loss.expert.encode_audio(waveform, 75)
        encoder = loss.expert.audio_input.encoder
        loss.half()
        assert encoder.dtype == torch.float32
        monkeypatch.setattr(ENCODERS[audio], "from_pretrained", None)
        loss.expert.encode_audio(waveform, 75)
        loss.to("meta")
        assert {value.device.type for value in encoder.network.parameters()} == {"meta"}

    def test_a_gradient_after_scoring_in_inference_mode(self, audio, folder, config, waveform):
        expert = UniSyncExpert(config())
        with torch.inference_mode():
            expert.encode_audio(waveform, 75)
        expert.encode_audio(waveform.requires_grad_(), 75).sum().backward()
        assert waveform.grad.abs().sum() > 0

    def test_the_configs_layer_is_taken(self, audio, folder, config, waveform):
        last, first = (UniSyncExpert(config(audio_layer=layer)) for layer in (-1, 1))
        assert torch.equal(last.audio_input(waveform), ENCODERS[audio].from_pretrained(folder)(waveform))
        assert torch.equal(first.audio_input(waveform), ENCODERS[audio].from_pretrained(folder, layer=1)(waveform))

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (torch.randn(1, 10, 768), r"\(B, L, 1024\).*got \(1, 10, 768\).*looks like HuBERT base"),
            (torch.randn(1, 10, 80), "looks like a mel"),
            (torch.randn(1, 10, 77), r"features of width 77$"),
            (torch.randn(1, 1, 10, 1024), r"got \(1, 1, 10, 1024\)"),
            (torch.ones(1, 10, 1024, dtype=torch.int64), "floating point, got"),
        ],
    )
    def test_wrong_features(self, features, message):
        with pytest.raises(ValueError, match=message):
            UniSyncExpert(UniSyncConfig(audio="hubert", embedding=8)).encode_audio(features, 5)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (torch.randn(1, 10, 384), r"\(B, L, 512\).*of whisper-base.*got \(1, 10, 384\).*looks like Whisper tiny$"),
            (torch.randn(1, 10, 768), "looks like HuBERT base .* or Whisper small$"),
            (torch.randn(1, 10, 5, 384), r"got \(1, 10, 5, 384\).*: looks like MuseTalk's features.*\[:, :, layer\]"),
            (torch.randn(1, 10, 7, 512), "looks like features from all 7 hidden states .* Whisper base"),
        ],
    )
    def test_wrong_features_for_whisper(self, features, message):
        with pytest.raises(ValueError, match=message):
            UniSyncExpert(UniSyncConfig(audio="whisper", embedding=8)).encode_audio(features, 5)

    def test_model_of_another_width(self, audio, folder, config, waveform):
        with pytest.raises(ValueError, match=r"\(B, L, 1024\).*: features of width 32, which looks like CTC"):
            UniSyncExpert(config(audio_features=1024)).encode_audio(waveform, 75)
