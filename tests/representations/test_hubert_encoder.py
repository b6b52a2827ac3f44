"""HuBERT encoder: every number against transformers' own code with a small random model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.precision import skip_without_convolution_in

from unisync_loss.representations import hubert_encoder as hubert
from unisync_loss.representations.audio_encoder import AudioEncoder
from unisync_loss.representations.hubert_encoder import HubertEncoder

WIDTH = 32


@pytest.fixture(scope="module", params=["group", "layer"])
def folder(request, tmp_path_factory):
    """A small random HuBERT of either family: base (group norm) and large (layer norms)."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(1)
    config = HubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        feat_extract_norm=request.param,
        do_stable_layer_norm=request.param == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    path = tmp_path_factory.mktemp(request.param)
    HubertModel(config).save_pretrained(path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(path)
    return path


@pytest.fixture
def waveform():
    """Three seconds whose loudness changes, not zero on average."""
    time = torch.arange(48000) / 16000
    return (0.3 * torch.randn(48000) * (1 + torch.sin(3 * time)) + 0.05)[None]


def peer(folder, waveform, layer=-1):
    """Features as transformers' own two objects make them."""
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extractor(list(waveform.numpy()), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        out = HubertModel.from_pretrained(folder).eval()(values, output_hidden_states=True)
    return out.last_hidden_state if layer == -1 else out.hidden_states[layer]


class TestNumbers:
    @pytest.mark.parametrize("layer", [-1, 0, 1, 3])
    def test_equals_transformers(self, folder, waveform, layer):
        own = HubertEncoder.from_pretrained(folder, layer=layer)(waveform)
        reference = peer(folder, waveform, layer)
        assert own.dtype == torch.float32
        assert torch.allclose(own[:, :-1], reference, atol=1e-5)
        assert torch.equal(own[:, -1], own[:, -2])  # the edge rule

    @pytest.mark.parametrize("frames", [1, 5, 74, 75])
    @pytest.mark.parametrize("extra", [-159, 0, 79, 80, 159])
    def test_two_steps_a_frame(self, folder, frames, extra):
        waveform = torch.randn(1, 640 * frames + extra)
        assert HubertEncoder.from_pretrained(folder)(waveform).shape == (1, 2 * frames, WIDTH)

    @pytest.mark.parametrize("piece", [97, 1000])
    def test_a_long_clip_in_pieces_equals_the_whole(self, folder, piece, monkeypatch):
        """Attention of a random network is nearly even, so missing context shows."""
        waveform = torch.randn(1, 16000 * 25) * (1 + torch.sin(torch.arange(400000) / 9000)) / 3
        monkeypatch.setattr(hubert, "_CHUNK", piece)
        pieces, whole = HubertEncoder.from_pretrained(folder)(waveform)[:, :-1], peer(folder, waveform)
        assert whole.std() > 0.1
        assert (pieces - whole).abs().max() < 1e-4

    def test_batch_is_clip_by_clip(self, folder):
        encoder, waveforms = HubertEncoder.from_pretrained(folder), torch.randn(3, 9600) * torch.tensor([[1], [9], [3]])
        assert torch.allclose(encoder(waveforms), torch.cat([encoder(w[None]) for w in waveforms]), atol=1e-5)

    def test_loudness_and_offset_do_not_matter(self, folder, waveform):
        encoder = HubertEncoder.from_pretrained(folder)
        assert torch.allclose(encoder(waveform), encoder(0.1 * waveform + 0.3), atol=1e-3)

    def test_the_preprocessor_decides_on_normalising(self, folder, waveform, tmp_path):
        copy = Path(shutil.copytree(folder, tmp_path / "plain"))
        settings = json.loads((copy / "preprocessor_config.json").read_text())
        (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
        own = HubertEncoder.from_pretrained(copy)(waveform)
        assert torch.allclose(own[:, :-1], peer(copy, waveform), atol=1e-5)
        assert not torch.equal(own, HubertEncoder.from_pretrained(folder)(waveform))

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.2)])
    def test_half_precision(self, folder, waveform, dtype, tolerance):
        skip_without_convolution_in(dtype)
        convolution = torch.nn.Conv1d(WIDTH, WIDTH, 16, groups=4)
        values = torch.randn(1, WIDTH, 99)
        if (convolution(values) - convolution.to(dtype)(values.to(dtype))).abs().max() > tolerance:
            pytest.skip("this CPU's oneDNN is wrong for narrow groups of channels in half precision (as with AMX)")
        half = HubertEncoder.from_pretrained(folder, dtype=dtype)(waveform)
        assert half.dtype == torch.float32
        error = (half - HubertEncoder.from_pretrained(folder)(waveform)).abs().max()
        assert 0 < error < tolerance

    def test_autocast_does_not_round(self, folder, waveform):
        encoder = HubertEncoder.from_pretrained(folder)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(waveform)
        assert torch.equal(rounded, encoder(waveform))

    @pytest.mark.skipif(not hasattr(torch, "compiler"), reason="wrong on CPUs in PyTorch 2.0, see docs/install.md")
    def test_gradient_reaches_the_waveform(self, folder, waveform):
        encoder = HubertEncoder.from_pretrained(folder)
        weight = torch.randn(150, WIDTH)
        waveform.requires_grad_()
        (encoder(waveform)[0] * weight).sum().backward()
        step = 1e-4 * waveform.grad / waveform.grad.norm()
        with torch.no_grad():
            rise = ((encoder(waveform + step) - encoder(waveform - step))[0] * weight).sum()
        assert rise.item() == pytest.approx(2 * (step * waveform.grad).sum().item(), rel=0.02)

    def test_random_numbers_are_left_alone(self, folder):
        state = torch.random.get_rng_state()
        HubertEncoder.from_pretrained(folder)
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.fixture
def short_stretches(monkeypatch):
    """Stretches of 2 s with half a second on either side, in place of 20 s and 5 s."""
    monkeypatch.setattr(AudioEncoder, "segment", 100)
    monkeypatch.setattr(HubertEncoder, "context", 25)


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("content", "found"),
        [(b"", "an empty file"), (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer")],
    )
    def test_in_place_of_weights(self, folder, tmp_path, content, found):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=rf"model\.safetensors: expected weights, got {found}"):
            HubertEncoder.from_pretrained(copy)

    def test_objects_in_place_of_tensors(self, folder, tmp_path):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / "model.safetensors").unlink()
        torch.save({"weight": Path("an object")}, copy / "pytorch_model.bin")
        with pytest.raises(
            ValueError, match=r"pytorch_model\.bin: expected tensors and nothing else, got other objects$"
        ):
            HubertEncoder.from_pretrained(copy)


@pytest.mark.usefixtures("short_stretches")
class TestLongSound:
    @pytest.mark.parametrize("steps", [150, 151, 200, 325, 400])
    def test_each_stretch_is_heard_with_its_margins_alone(self, folder, steps):
        waveform = torch.randn(1, 320 * steps)
        features = HubertEncoder.from_pretrained(folder)(waveform)
        assert features.shape == (1, steps, WIDTH)
        for start in range(0, steps, 100):
            first, last = max(0, start - 25), start + 125
            if steps <= 150:  # whole
                first, last = 0, steps
            piece = waveform[:, 320 * first : 320 * last if last < steps else None]
            expected = peer(folder, piece)[:, start - first :][:, :100]
            assert torch.allclose(features[:, start : start + 100][:, : expected.shape[1]], expected, atol=1e-5)
        assert (features[:, -1] == features[:, -2]).all()

    def test_a_part_is_heard_as_in_the_whole_away_from_its_edges(self, folder):
        encoder, waveform = HubertEncoder.from_pretrained(folder), torch.randn(1, 320 * 500)
        whole, part = encoder(waveform), encoder(waveform[:, 320 * 200 :])
        assert (whole[:, 300:] - part[:, 100:]).abs().max() < 1e-3
        early = encoder(waveform[:, : 320 * 300])
        assert (whole[:, :200] - early[:, :200]).abs().max() < 1e-3
        # and not because context has no effect
        assert (whole[:, 200:300] - part[:, :100]).abs().max() > 1e-2

    def test_caches_of_audio_encoded_at_once_stay(self, folder, monkeypatch):
        """The features of longer audio changed once."""
        encoder = HubertEncoder.from_pretrained(folder)
        now = [encoder.cache_key(steps) for steps in (150, 151)]
        assert now[0] == f"1 {encoder.identity} -1 True torch.float32 "  # that of the first version
        monkeypatch.setattr(hubert, "_CACHE_VERSIONS", (1, 1))
        assert [encoder.cache_key(steps) == key for steps, key in zip((150, 151), now, strict=True)] == [True, False]
