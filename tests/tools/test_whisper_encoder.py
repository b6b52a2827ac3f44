"""Conversion of Whisper's encoder: from a model.bin written here from a random model, and from transformers."""

import json
import struct
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tools import whisper_encoder
from unisync_loss.representations import WhisperEncoder

THEIRS = {
    "self_attn.out_proj": "self_attention/linear_1",
    "self_attn_layer_norm": "self_attention/layer_norm",
    "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
    "final_layer_norm": "ffn/layer_norm",
}


def variables_of(folder):
    """Encoder of a folder of transformers by the names of CTranslate2."""
    tensors = {key: value.numpy() for key, value in load_file(folder / "model.safetensors").items()}
    take = {key.removeprefix("encoder."): value for key, value in tensors.items() if key.startswith("encoder.")}.pop
    found = {"position_encodings/encodings": take("embed_positions.weight")}
    for name in ("conv1", "conv2"):
        found |= {f"{name}/{end}": take(f"{name}.{end}") for end in ("weight", "bias")}
    found |= {"layer_norm/gamma": take("layer_norm.weight"), "layer_norm/beta": take("layer_norm.bias")}
    for number in range(3):
        for ours, theirs in THEIRS.items():
            ends = ("gamma", "beta") if "norm" in theirs else ("weight", "bias")
            for end, own in zip(ends, ("weight", "bias"), strict=True):
                found[f"layer_{number}/{theirs}/{end}"] = take(f"layers.{number}.{ours}.{own}")
        for end in ("weight", "bias"):
            parts = [take(f"layers.{number}.self_attn.{p}_proj.{end}", np.zeros(32, np.float32)) for p in "qkv"]
            found[f"layer_{number}/self_attention/linear_0/{end}"] = np.concatenate(parts)
    return {f"encoder/{name}": value for name, value in found.items()}


def write(path, variables, head=(6, "WhisperSpec", 3)):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    content = struct.pack("<I", head[0]) + text(head[1]) + struct.pack("<II", head[2], len(variables))
    for name, value in variables.items():
        content += text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        content += struct.pack("<BI", kinds[value.dtype.name], value.nbytes) + value.tobytes()
    path.write_bytes(content + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings"))


@pytest.fixture
def variables(tiny_whisper):
    decoder = {"decoder/embeddings/weight": np.zeros((9, 32), np.float32)}
    return {**decoder, **variables_of(tiny_whisper), "encoder/num_heads": np.array(4, np.int16)}


@pytest.fixture
def waveform():
    return 0.3 * torch.randn(1, 16000)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_model_bin(tiny_whisper, variables, waveform, tmp_path, kind, monkeypatch, capsys):
    stored = {name: value.astype(kind) if value.ndim else value for name, value in variables.items()}
    write(tmp_path / "model.bin", stored)
    arguments = [str(tmp_path / "model.bin"), str(tmp_path / "out"), "--dtype", "float16"]
    monkeypatch.setattr(sys, "argv", ["whisper_encoder", *arguments])
    whisper_encoder.main()
    assert "3 of 3 layers of 32" in capsys.readouterr().out
    expected = WhisperEncoder.from_pretrained(tiny_whisper)(waveform)
    own = WhisperEncoder.from_pretrained(tmp_path / "out")(waveform)
    assert (own - expected).abs().max() < 0.01 * expected.abs().max()
    sizes = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"model_type": "whisper", **sizes, "num_mel_bins": 80}


def test_both_sources_give_the_same_file(tiny_whisper, variables, tmp_path):
    write(tmp_path / "model.bin", variables)
    whisper_encoder.convert(tmp_path / "model.bin", tmp_path / "a")
    whisper_encoder.convert(tiny_whisper, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_int8_is_within_half_a_step(tiny_whisper, waveform, tmp_path):
    whisper_encoder.convert(tiny_whisper, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    own, original = (
        WhisperEncoder.from_pretrained(folder).network.state_dict() for folder in (tmp_path / "out", tiny_whisper)
    )
    assert {value.dtype for name, value in stored.items() if value.ndim > 1} == {torch.int8}
    for name, value in original.items():
        error = (own[name] - value).abs().flatten(1).amax(1) if value.ndim > 1 else (own[name] - value).abs()
        largest = value.abs().flatten(1).amax(1) / 254 if value.ndim > 1 else value.abs() * 2**-11 + 2**-25
        assert (error <= 1.0001 * largest).all(), name
        if value.ndim > 1:
            assert (stored[name].flatten(1).abs().amax(1) == 127).all()
            assert error.max() > 0
    whole = WhisperEncoder.from_pretrained(tiny_whisper)(waveform)
    assert (WhisperEncoder.from_pretrained(tmp_path / "out")(waveform) - whole).abs().max() < 0.1 * whole.abs().max()


def test_a_channel_of_zeros_stays_zero():
    weight, scale = whisper_encoder.quantise(torch.zeros(2, 3))
    assert (weight == 0).all()
    assert (scale > 0).all()


def test_first_layers(tiny_whisper, waveform, tmp_path):
    """Layers keep their numbers, and the last one is not normalised."""
    whisper_encoder.convert(tiny_whisper, tmp_path / "all", "float16")
    whisper_encoder.convert(tiny_whisper, tmp_path / "two", "float16", 2)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["encoder_layers"] == 3
    expected = WhisperEncoder.from_pretrained(tmp_path / "all", layer=2)(waveform)
    for layer in (2, -1):
        assert torch.equal(WhisperEncoder.from_pretrained(tmp_path / "two", layer=layer)(waveform), expected)
    whisper_encoder.convert(tmp_path / "two", tmp_path / "again", "float16")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    for layers in (0, 4):
        with pytest.raises(ValueError, match=f"layers: expected 1 … 3, got {layers}"):
            whisper_encoder.convert(tiny_whisper, tmp_path / "none", layers=layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("encoder/layer_1/ffn/linear_0/bias"), r"missing layers\.1\.fc1\.bias"),
        (
            lambda v: v.update({"encoder/layer_1/ffn/linear_2/bias": np.ones(3, np.float32)}),
            r"unexpected layers\.1\.ffn",
        ),
        (lambda v: v["encoder/layer_1/self_attention/linear_0/bias"].fill(1), "expected no bias of the keys"),
        (lambda v: v["encoder/position_encodings/encodings"].fill(0), "Whisper's sinusoids"),
        (lambda v: v.pop("encoder/num_heads"), "expected an encoder, got"),
        (lambda v: v.clear(), "expected an encoder, got none"),
        (
            lambda v: v.update({"encoder/conv2/weight": np.ones((32, 32, 3), np.int8)}),
            "encoder/conv2/weight: expected float32 or float16, got type 1: .* without quantisation",
        ),
    ],
)
def test_other_variables(variables, tmp_path, change, message):
    variables = {name: value.copy() for name, value in variables.items()}
    change(variables)
    write(tmp_path / "model.bin", variables)
    with pytest.raises(ValueError, match=message):
        whisper_encoder.convert(tmp_path / "model.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", [(5, "WhisperSpec", 3), (6, "TransformerSpec", 3), (6, "WhisperSpec", 4)])
def test_other_formats(variables, tmp_path, head):
    write(tmp_path / "model.bin", variables, head)
    with pytest.raises(ValueError, match=r"version, specification and revision \(6, 'WhisperSpec', 3\), got"):
        whisper_encoder.convert(tmp_path / "model.bin", tmp_path / "out")


def test_a_cut_file(variables, tmp_path):
    write(tmp_path / "model.bin", variables)
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:9999])
    with pytest.raises(ValueError, match="expected a whole file, got one that ends too early"):
        whisper_encoder.convert(tmp_path / "model.bin", tmp_path / "out")


def test_beyond_float16(tiny_whisper, tmp_path):
    size = whisper_encoder.read_size(json.loads((tiny_whisper / "config.json").read_text()))
    network = whisper_encoder.read_network(tiny_whisper / "model.safetensors", size).requires_grad_(False)
    network.layers[0].fc1.bias[3] = 1e5
    with pytest.raises(ValueError, match=r"layers\.0\.fc1\.bias: expected values within float16, got up to 100000"):
        whisper_encoder.pack(network, "int8", 3)
