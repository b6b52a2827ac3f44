"""Whisper's encoder: features of clips of any length, two steps per video frame.

The weights are read from ``model.safetensors`` of ``transformers``, which itself is not needed. Weights may be stored
as int8: a tensor of shape (out, …) comes with ``NAME_scale``, (out,) in float32, and stands for their product.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.representations.audio_encoder import HOP, AudioEncoder
from unisync_loss.representations.whisper_network import (
    POSITIONS,
    WhisperNetwork,
    WhisperSize,
    WhisperSpectrogram,
    sinusoids,
)
from unisync_loss.utils.files import read_json, recognise_file
from unisync_loss.utils.model_files import CONFIG, ModelFiles, find_model, read_sizes
from unisync_loss.utils.tensors import match_weights

PADDING = 8000  # zeros after a stretch: 0.5 s, as Whisper was trained on audio that ends in silence
SCALE = "_scale"  # end of the name of an int8 tensor's scale
#: where checkpoints have the encoder: with the decoder and its head, with the decoder, alone
_PREFIXES = ("model.encoder.", "encoder.")
#: what every Whisper has and the network takes for granted
_COMMON = {"model_type": "whisper", "max_source_positions": POSITIONS, "activation_function": "gelu"}
#: sizes of the encoder, with several times the largest Whisper's, and those of the decoder, which is not read
_MOST = {
    "d_model": 8192,
    "encoder_layers": 128,
    "encoder_attention_heads": 128,
    "encoder_ffn_dim": 32768,
    "num_mel_bins": 512,
}
_MOST_DECODER = {
    "decoder_layers": 128,
    "decoder_ffn_dim": 32768,
    "vocab_size": 1_000_000,
    "max_target_positions": 8192,
}
POSITIONS_KEY = "embed_positions.weight"
_POSITION_ERROR = 1e-2  # float16 rounds by 5e-4
_CACHE_VERSION = 1  # part of the cache key: increased when the features change


class WhisperEncoder(AudioEncoder[WhisperNetwork]):
    """A frozen encoder of Whisper: waveforms → features.

    Audio of up to 29 s is encoded at once; see :class:`AudioEncoder` for longer audio. Half a second of silence is
    added, but not 30 s, as the original does, which would take most of the time.

    Args:
        network: with its weights; its last state is the result.
        layer: which state that is, as in ``hidden_states`` of transformers.
        identity: identifier of the weights, a commit or a sha256.
        dtype: in which the network computes, float32, float16 or bfloat16; the spectrogram is float32.

    Shape:
        (B, S) → (B, L, F).
    """

    kind = "Whisper"
    context = 225  # 4.5 s: a segment, its context and the padding are less than 30 s

    def __init__(
        self, network: WhisperNetwork, *, layer: int = -1, identity: str, dtype: torch.dtype = torch.float32
    ) -> None:
        bins, width = network.conv1.in_channels, network.conv1.out_channels
        super().__init__(network, width=width, layer=layer, identity=identity, dtype=dtype)
        self.spectrogram = WhisperSpectrogram(bins)

    @classmethod
    def find(cls, name: str, revision: str) -> ModelFiles:
        """Find the files of a model."""
        return find_model(name, revision, count_parameters)

    @classmethod
    def load(cls, files: ModelFiles, layer: int, dtype: torch.dtype) -> WhisperEncoder:
        """Build an encoder from its files, without the layers above; see :meth:`AudioEncoder.from_pretrained`."""
        size = read_size(read_json(files.folder / CONFIG))
        return cls(read_network(files.weights, size, layer), layer=layer, identity=files.identity, dtype=dtype)

    def cache_key(self, steps: int) -> str:
        """Everything but the samples that ``steps`` steps of features depend on."""
        return f"whisper {_CACHE_VERSION} {self.identity} {self.layer} {self.dtype} "

    def encode(self, waveform: Tensor) -> Tensor:
        """Encode a float32 waveform (B, S) at once: (B, S / 320 rounded, F) float32."""
        return self.encode_states(waveform)[-1]

    def encode_states(self, waveform: Tensor) -> list[Tensor]:
        """Encode as :meth:`encode` does, with the states of all layers as in ``hidden_states`` of transformers."""
        spectrogram = self.spectrogram(F.pad(waveform, (0, PADDING)))
        steps = round(waveform.shape[1] / HOP)
        return [state[:, :steps].float() for state in self.network(spectrogram.to(self.dtype))]


def read_size(config: dict[str, Any]) -> WhisperSize:
    """Take the sizes of the encoder out of a ``config.json``.

    Raises:
        ValueError: for another kind of model, or a size that is missing, impossible or absurd.
    """
    for name, value in _COMMON.items():
        got = config.get(name, None if name == "model_type" else value)
        if got != value:
            raise ValueError(f"{CONFIG}: expected a Whisper with {name} {value!r}, got {got!r}")
    sizes = read_sizes(config, _MOST)
    size = WhisperSize(**sizes)
    if size.d_model % size.encoder_attention_heads or size.d_model % 2 or size.d_model < 4:
        heads = size.encoder_attention_heads
        raise ValueError(f"{CONFIG}: d_model: expected an even multiple of {heads} heads, got {size.d_model}")
    return size


def count_parameters(config: dict[str, Any]) -> int:
    """Number of parameters of a whole Whisper, or of the encoder if the config names no decoder."""
    size = read_size(config)
    width, ffn = size.d_model, size.encoder_ffn_dim
    layer = 4 * width**2 + 2 * width * ffn + ffn + 8 * width
    encoder = size.encoder_layers * layer + 3 * width * (size.num_mel_bins + width) + (POSITIONS + 4) * width
    if "decoder_layers" not in config:
        return encoder
    other = read_sizes(config, _MOST_DECODER)
    ffn, vocabulary = other["decoder_ffn_dim"], other["vocab_size"]
    layer = 8 * width**2 + 2 * width * ffn + ffn + 14 * width
    # some files have the embeddings twice, as the last layer's weights
    return encoder + other["decoder_layers"] * layer + (2 * vocabulary + other["max_target_positions"] + 2) * width


def read_network(path: Path, size: WhisperSize, layer: int = -1) -> WhisperNetwork:
    """Read the encoder's weights up to a layer, all of them and nothing else of the encoder.

    Args:
        path: safetensors, of the encoder alone or with the decoder, which is not read. A file of the first layers only
            has no ``layer_norm``.
        size: of the whole encoder.
        layer: see :class:`AudioEncoder`; -1 is the last layer that the file has.

    Raises:
        ValueError: for a file that cannot be read, a layer that it does not have, weights that are missing, unexpected,
            of another shape or not finite, or positions that are not Whisper's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            prefix = next((prefix for prefix in _PREFIXES if any(key.startswith(prefix) for key in keys)), "")
            names = {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
            count = _count_layers(list(names), size, layer)
            needed = [name for name in names if _is_needed(name, size, count)]
            tensors = {name: file.get_tensor(names[name]) for name in needed}
    except (OSError, SafetensorError) as error:
        found = recognise_file(path) or f"none ({error})"
        raise ValueError(f"{path.name}: expected weights in safetensors, got {found}") from error
    try:
        return build_network(tensors, size, count)
    except ValueError as error:
        raise ValueError(f"{path.name}: does not fit {CONFIG}: {error}") from error


def build_network(tensors: Mapping[str, Tensor], size: WhisperSize, layers: int) -> WhisperNetwork:
    """Build the first ``layers`` layers from their weights, which may be int8 with scales.

    Raises:
        ValueError: for weights that are missing, unexpected, of another shape or not finite, or positions that are not
            Whisper's.
    """
    weights = _restore_int8(tensors)
    _check_positions(weights.pop(POSITIONS_KEY, None), size.d_model)
    with torch.device("meta"):  # neither time nor memory for random weights
        network = WhisperNetwork(size, layers)
    network.to_empty(device="cpu").load_state_dict(match_weights(weights, network.state_dict()))
    network.positions = sinusoids(POSITIONS, size.d_model)
    return network


def _count_layers(names: list[str], size: WhisperSize, layer: int) -> int:
    """Number of layers to build for ``layer``."""
    stored = 1 + max((index for name in names if (index := _layer_of(name)) is not None), default=-1)
    partial = 0 < stored < size.encoder_layers and "layer_norm.weight" not in names
    last = stored if partial else size.encoder_layers
    if not -1 <= layer <= last:
        raise ValueError(f"audio_layer: expected -1 … {last}, got {layer}")
    count = last if layer == -1 else layer
    if count > stored:  # before a network of any number of layers is built
        raise ValueError(f"expected the weights of {count} layers, got {stored}")
    return count


def _layer_of(name: str) -> int | None:
    match = re.match(r"layers\.(\d+)\.", name)
    return int(match[1]) if match else None


def _is_needed(name: str, size: WhisperSize, count: int) -> bool:
    """Whether the first ``count`` layers have a weight of that name, or no Whisper has."""
    index = _layer_of(name)
    if index is not None:
        return index < count or index >= size.encoder_layers
    return count == size.encoder_layers or not name.startswith("layer_norm.")


def _restore_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply int8 tensors by their scales."""
    restored = dict(tensors)
    for name, weight in tensors.items():
        if weight.dtype != torch.int8:
            continue
        scale = restored.pop(name + SCALE, None)
        if scale is None or scale.dtype != torch.float32 or not weight.ndim or scale.shape != weight.shape[:1]:
            expected = f"torch.float32 {tuple(weight.shape[:1])}"
            found = "none" if scale is None else f"{scale.dtype} {tuple(scale.shape)}"
            raise ValueError(f"{name}{SCALE}: expected {expected} beside int8 weights, got {found}")
        restored[name] = torch.einsum("o...,o->o...", weight.float(), scale)
    return restored


def _check_positions(positions: Tensor | None, width: int) -> None:
    """Check stored position embeddings, which are constants of the network here."""
    if positions is None:
        return
    if positions.shape != (POSITIONS, width):
        raise ValueError(f"{POSITIONS_KEY}: expected shape {(POSITIONS, width)}, got {tuple(positions.shape)}")
    error = (positions.float() - sinusoids(POSITIONS, width)).abs().max().item()
    if not error <= _POSITION_ERROR:  # NaN, too
        raise ValueError(f"{POSITIONS_KEY}: expected Whisper's sinusoids, got values that differ by up to {error:.3g}")
