"""Whisper encoder: every number against transformers with a small random model, and strict loading."""

import json
import shutil
import sys

import pytest
import torch
from helpers.precision import skip_without_convolution_in
from helpers.whisper import changed_copy, peer_states
from safetensors.torch import load_file, save_file

from unisync_loss.representations import WhisperEncoder
from unisync_loss.representations.audio_encoder import AudioEncoder

WIDTH = 32


@pytest.fixture
def waveform():
    """Three seconds whose loudness changes."""
    time = torch.arange(48000) / 16000
    return (0.3 * torch.randn(48000) * (1 + 0.5 * torch.sin(3 * time)))[None]


def peer(folder, waveform, layer=-1):
    """Features by transformers, of the waveform and half a second of silence."""
    steps = waveform.shape[1] // 320
    return peer_states(folder, waveform, 320 * steps + 8000)[layer][:, :steps]


class TestNumbers:
    @pytest.mark.parametrize("layer", [-1, 0, 1, 2, 3])
    def test_equals_transformers(self, tiny_whisper, waveform, layer):
        own = WhisperEncoder.from_pretrained(tiny_whisper, layer=layer)(waveform)
        expected = peer(tiny_whisper, waveform, layer)
        assert own.dtype == torch.float32
        assert own.shape == expected.shape == (1, 150, WIDTH)
        assert (own - expected).abs().max() < 1e-4 * expected.abs().max()

    @pytest.mark.parametrize("frames", [1, 5, 75])
    @pytest.mark.parametrize("extra", [-159, 0, 79, 159])
    def test_two_steps_a_frame(self, tiny_whisper, frames, extra):
        waveform = torch.randn(1, 640 * frames + extra)
        assert WhisperEncoder.from_pretrained(tiny_whisper)(waveform).shape == (1, 2 * frames, WIDTH)

    def test_twenty_nine_seconds_are_encoded_at_once(self, tiny_whisper):
        waveform = torch.randn(1, 320 * 1450) / 3
        own, expected = WhisperEncoder.from_pretrained(tiny_whisper)(waveform), peer(tiny_whisper, waveform)
        assert (own - expected).abs().max() < 1e-4 * expected.abs().max()

    def test_batch_is_clip_by_clip(self, tiny_whisper):
        encoder, waveforms = WhisperEncoder.from_pretrained(tiny_whisper), torch.randn(3, 9600)
        waveforms = waveforms * torch.tensor([[0.1], [0.9], [0.3]])
        assert torch.allclose(encoder(waveforms), torch.cat([encoder(w[None]) for w in waveforms]), atol=1e-4)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.03), (torch.bfloat16, 0.2)])
    def test_half_precision(self, tiny_whisper, waveform, dtype, tolerance):
        skip_without_convolution_in(dtype)
        half = WhisperEncoder.from_pretrained(tiny_whisper, dtype=dtype)(waveform)
        assert half.dtype == torch.float32
        error = (half - WhisperEncoder.from_pretrained(tiny_whisper)(waveform)).abs().max()
        assert 0 < error < tolerance

    def test_autocast_and_casts_of_a_parent_do_not_round(self, tiny_whisper, waveform):
        encoder = WhisperEncoder.from_pretrained(tiny_whisper)
        expected = encoder(waveform)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(encoder(waveform), expected)
        assert torch.equal(encoder.half()(waveform), expected)
        assert torch.allclose(encoder.double()(waveform), expected, atol=1e-4)

    def test_gradient_reaches_the_waveform(self, tiny_whisper, waveform):
        encoder = WhisperEncoder.from_pretrained(tiny_whisper)
        weight = torch.randn(150, WIDTH)
        waveform.requires_grad_()
        (encoder(waveform)[0] * weight).sum().backward()
        step = 1e-3 * waveform.grad / waveform.grad.norm()
        with torch.no_grad():
            rise = ((encoder(waveform + step) - encoder(waveform - step))[0] * weight).sum()
        assert rise.item() == pytest.approx(2 * (step * waveform.grad).sum().item(), rel=0.02)
        assert all(parameter.grad is None for parameter in encoder.network.parameters())

    @pytest.mark.parametrize("waveform", [torch.randn(1, 399), torch.randn(16000), torch.ones(1, 400).short()])
    def test_wrong_waveform(self, tiny_whisper, waveform):
        with pytest.raises(ValueError, match=r"waveform: expected \(B, S\) floating point with S at least 400, got"):
            WhisperEncoder.from_pretrained(tiny_whisper)(waveform)


class TestLongAudio:
    """Segments of 2 s with half a second on either side, in place of 20 s and 4.5 s."""

    @pytest.fixture(autouse=True)
    def short_segments(self, monkeypatch):
        monkeypatch.setattr(AudioEncoder, "segment", 100)
        monkeypatch.setattr(WhisperEncoder, "context", 25)

    @pytest.mark.parametrize("steps", [150, 151, 200, 325])
    def test_each_segment_has_its_context_alone(self, tiny_whisper, steps):
        waveform = torch.randn(1, 320 * steps)
        features = WhisperEncoder.from_pretrained(tiny_whisper)(waveform)
        assert features.shape == (1, steps, WIDTH)
        for start in range(0, steps, 100):
            first, last = max(0, start - 25), min(start + 125, steps)
            if steps <= 150:  # at once
                first, last = 0, steps
            expected = peer(tiny_whisper, waveform[:, 320 * first : 320 * last])[:, start - first :][:, :100]
            assert (features[:, start : start + 100][:, : expected.shape[1]] - expected).abs().max() < 1e-3

    def test_a_part_is_encoded_as_in_the_whole_away_from_its_edges(self, tiny_whisper):
        encoder, waveform = WhisperEncoder.from_pretrained(tiny_whisper), torch.randn(1, 320 * 500)
        whole, early = encoder(waveform), encoder(waveform[:, : 320 * 300])
        assert (whole[:, :200] - early[:, :200]).abs().max() < 1e-3
        # and not because context has no effect
        assert (whole[:, 200:300] - early[:, 200:300]).abs().max() > 1e-2


class TestFiles:
    def test_keys_of_all_three_forms(self, tiny_whisper, waveform, tmp_path):
        expected = WhisperEncoder.from_pretrained(tiny_whisper)(waveform)
        for number, prefix in enumerate(("model.encoder.", "encoder.", "")):

            def rename(tensors, prefix=prefix):
                named = {key: tensors.pop(key) for key in list(tensors)}
                encoder = {key: value for key, value in named.items() if key.startswith("encoder.")}
                tensors.update({prefix + key.removeprefix("encoder."): value for key, value in encoder.items()})
                if prefix:
                    outer = prefix.removesuffix("encoder.")
                    tensors[f"{outer}decoder.layer_norm.weight"] = torch.zeros(2)
                    tensors["proj_out.weight"] = torch.zeros(3)

            copy = changed_copy(tiny_whisper, tmp_path / str(number), rename)
            assert torch.equal(WhisperEncoder.from_pretrained(copy)(waveform), expected)

    def test_no_transformers(self, tiny_whisper, waveform, monkeypatch):
        monkeypatch.setitem(sys.modules, "transformers", None)
        assert WhisperEncoder.from_pretrained(tiny_whisper)(waveform).shape == (1, 150, WIDTH)

    def test_layers_above_are_not_loaded(self, tiny_whisper, waveform, tmp_path):
        def without(tensors):
            for key in [key for key in tensors if key.startswith(("encoder.layers.2", "encoder.layer_norm"))]:
                del tensors[key]

        whole = WhisperEncoder.from_pretrained(tiny_whisper, layer=2)
        assert len(whole.network.layers) == 2
        copy = changed_copy(tiny_whisper, tmp_path / "copy", without)
        for layer in (-1, 2):  # a file of the first layers only: layers keep their numbers
            assert torch.equal(WhisperEncoder.from_pretrained(copy, layer=layer)(waveform), whole(waveform))
        with pytest.raises(ValueError, match="audio_layer: expected -1 … 2, got 3"):
            WhisperEncoder.from_pretrained(copy, layer=3)

    @pytest.mark.parametrize("layer", [-2, 4])
    def test_no_such_layer(self, tiny_whisper, layer):
        with pytest.raises(ValueError, match=f"Whisper .*@main: audio_layer: expected -1 … 3, got {layer}"):
            WhisperEncoder.from_pretrained(tiny_whisper, layer=layer)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("encoder.layers.1.fc1.weight"), r"missing layers\.1\.fc1\.weight$"),
            (lambda t: [t.pop(k) for k in list(t) if "layers.1." in k], r"missing layers\.1\..*and 9 more"),
            (lambda t: t.pop("encoder.layer_norm.bias"), r"missing layer_norm\.bias"),
            (lambda t: t.update({"encoder.layers.3.fc1.bias": torch.zeros(48)}), r"unexpected layers\.3\.fc1\.bias"),
            (lambda t: t.update({"encoder.conv3.bias": torch.zeros(32)}), r"unexpected conv3\.bias"),
            (lambda t: t.update({"encoder.conv1.bias": torch.zeros(9)}), r"conv1\.bias: expected shape \(32,\), got"),
            (lambda t: t["encoder.conv1.bias"].fill_(torch.nan), r"conv1\.bias: expected finite values"),
            (
                lambda t: t["encoder.embed_positions.weight"][700].add_(0.02),
                "Whisper's sinusoids.*differ by up to 0.02",
            ),
            (lambda t: t["encoder.embed_positions.weight"].fill_(torch.nan), "sinusoids.*differ by up to nan"),
            (
                lambda t: t.update({"encoder.embed_positions.weight": torch.zeros(9, 32)}),
                r"embed_positions\.weight: expected shape \(1500, 32\), got \(9, 32\)",
            ),
        ],
    )
    def test_other_weights(self, tiny_whisper, tmp_path, change, message):
        copy = changed_copy(tiny_whisper, tmp_path / "copy", change)
        with pytest.raises(ValueError, match=rf"Whisper .*copy@main: .*{message}"):
            WhisperEncoder.from_pretrained(copy)

    def test_positions_in_float16_or_left_out(self, tiny_whisper, waveform, tmp_path):
        expected = WhisperEncoder.from_pretrained(tiny_whisper)(waveform)
        positions = "encoder.embed_positions.weight"
        for name, change in (
            ("half", lambda t: t.update({positions: t[positions].half()})),
            ("none", lambda t: t.pop(positions)),
        ):
            copy = changed_copy(tiny_whisper, tmp_path / name, change)
            assert torch.equal(WhisperEncoder.from_pretrained(copy)(waveform), expected)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"model_type": "hubert"}, "expected a Whisper with model_type 'whisper', got 'hubert'"),
            ({"model_type": None}, "expected a Whisper with model_type 'whisper', got None"),
            ({"max_source_positions": 750}, "max_source_positions 1500, got 750"),
            ({"activation_function": "relu"}, "activation_function 'gelu', got 'relu'"),
            ({"d_model": "32"}, "d_model: expected a whole number from 1 to 8192, got '32'"),
            ({"num_mel_bins": None}, "num_mel_bins: expected a whole number from 1 to 512, got None"),
            ({"encoder_layers": 0}, "encoder_layers: expected a whole number from 1 to 128, got 0"),
            ({"encoder_attention_heads": 5}, "d_model: expected an even multiple of 5 heads, got 32"),
            ({"encoder_layers": 2}, r"audio_layer|unexpected layers\.2"),
            ({"d_model": 64}, "expected shape"),
            ({"d_model": 4 * 10**9}, "d_model: expected a whole number from 1 to 8192, got 4000000000"),
            (
                {"d_model": 8192, "encoder_layers": 128, "encoder_ffn_dim": 32768},
                "at most 4,000,000,000 parameters, got 1",
            ),
            ({"encoder_layers": 10**9}, "encoder_layers: expected a whole number from 1 to 128, got 1000000000"),
            ({"encoder_layers": 100}, "expected the weights of 100 layers, got 3"),
        ],
    )
    def test_other_config(self, tiny_whisper, tmp_path, values, message):
        copy = changed_copy(tiny_whisper, tmp_path / "copy", lambda tensors: tensors)
        config = {**json.loads((copy / "config.json").read_text()), **values}
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"Whisper .*copy@main: .*{message}"):
            WhisperEncoder.from_pretrained(copy)

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", "an empty file"),
            (b"nonsense", "none"),
            (b"\xff" * 99, "none"),
            (b"PK\x03\x04pickle", "none"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ],
    )
    def test_broken_weights(self, tiny_whisper, tmp_path, content, found):
        copy = shutil.copytree(tiny_whisper, tmp_path / "copy")
        (copy / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=rf"model\.safetensors: expected weights in safetensors, got {found}"):
            WhisperEncoder.from_pretrained(copy)

    def test_a_cut_file(self, tiny_whisper, tmp_path):
        copy = shutil.copytree(tiny_whisper, tmp_path / "copy")
        content = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"model\.safetensors: expected weights in safetensors, got none"):
            WhisperEncoder.from_pretrained(copy)


class TestInt8:
    KEY = "encoder.layers.1.fc1.weight"

    def test_is_multiplied_by_its_scale(self, tiny_whisper, tmp_path):
        def quantise(tensors):
            for key in (self.KEY, "encoder.conv2.weight"):
                tensors[key] = torch.randint(-127, 128, tensors[key].shape, dtype=torch.int8)
                tensors[f"{key}_scale"] = torch.rand(len(tensors[key]))

        copy = changed_copy(tiny_whisper, tmp_path / "copy", quantise)
        state, stored = WhisperEncoder.from_pretrained(copy).network.state_dict(), load_file(copy / "model.safetensors")
        for key in (self.KEY, "encoder.conv2.weight"):
            own = state[key.removeprefix("encoder.")]
            assert own.dtype == torch.float32
            for row in range(len(own)):
                assert torch.equal(own[row], stored[key][row] * stored[f"{key}_scale"][row])

    @pytest.mark.parametrize(
        ("scale", "message"),
        [
            (None, r"expected torch\.float32 \(48,\) beside int8 weights, got none"),
            (torch.ones(32), r"expected torch\.float32 \(48,\) .*got torch\.float32 \(32,\)"),
            (torch.ones(48).half(), r"got torch\.float16 \(48,\)"),
            (torch.full((48,), torch.inf), "expected finite values"),
        ],
    )
    def test_wrong_scale(self, tiny_whisper, tmp_path, scale, message):
        copy = shutil.copytree(tiny_whisper, tmp_path / "copy")
        tensors = load_file(copy / "model.safetensors")
        tensors[self.KEY] = torch.ones(48, 32, dtype=torch.int8)
        tensors |= {} if scale is None else {f"{self.KEY}_scale": scale}
        save_file(tensors, copy / "model.safetensors")
        with pytest.raises(ValueError, match=rf"layers\.1\.fc1\.weight.*{message}"):
            WhisperEncoder.from_pretrained(copy)

    def test_scale_of_a_float(self, tiny_whisper, tmp_path):
        extra = {f"{self.KEY}_scale": torch.ones(48)}
        copy = changed_copy(tiny_whisper, tmp_path / "copy", lambda tensors: tensors.update(extra))
        with pytest.raises(ValueError, match=r"unexpected layers\.1\.fc1\.weight_scale"):
            WhisperEncoder.from_pretrained(copy)
