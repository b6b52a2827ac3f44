"""Convert Whisper's encoder into the folder of a bundled model: its sizes, and its weights in int8 or float16.

    python -m tools.whisper_encoder SOURCE OUT [--dtype float16] [--layers 4]

SOURCE is a folder of transformers (config.json and model.safetensors) or a ``model.bin`` of CTranslate2, as
faster-whisper takes it (binary version 6, WhisperSpec 3). In int8, each output channel of a matrix or convolution has a
scale of its own; norms and biases are float16. With ``--layers``, only the first layers are written, without the last
norm; ``config.json`` still has the number of all, and a layer keeps its number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from unisync_loss.representations import WhisperEncoder
from unisync_loss.representations.whisper_encoder import POSITIONS_KEY, SCALE, build_network, read_network, read_size
from unisync_loss.representations.whisper_network import WhisperNetwork, WhisperSize
from unisync_loss.utils.files import read_json, write_atomically
from unisync_loss.utils.model_files import CONFIG, WEIGHTS

_FORMAT = (6, "WhisperSpec", 3)  # binary version, specification, its revision
_FLOATS = {0: "<f4", 4: "<f2"}  # types of number by their code; weights of other types are quantised
_NAMES = {
    "self_attention/linear_1": "self_attn.out_proj",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "ffn/layer_norm": "final_layer_norm",
}
_ENDS = {"gamma": "weight", "beta": "bias"}
_STACKED = "self_attention/linear_0"  # query, key and value
_LARGEST = 127  # of a symmetric int8


class _Binary:
    """Little-endian numbers and strings of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def bytes(self, count: int) -> bytes:
        content = self._file.read(count)
        if len(content) != count:
            raise ValueError("expected a whole file, got one that ends too early")
        return content

    def number(self, kind: str) -> int:
        (value,) = struct.unpack(f"<{kind}", self.bytes(struct.calcsize(kind)))
        return int(value)

    def text(self) -> str:
        return self.bytes(self.number("H"))[:-1].decode("latin-1")


def read_ctranslate2(path: Path) -> tuple[WhisperSize, WhisperNetwork]:
    """Read the encoder of a ``model.bin``.

    Raises:
        ValueError: for another format, quantised weights, or weights that are not those of a whole encoder.
    """
    with path.open("rb") as file:
        variables = _read_variables(_Binary(file))
    heads = variables.pop("num_heads", None)
    if heads is None or "conv1/weight" not in variables:
        raise ValueError(f"expected an encoder, got {', '.join(variables) or 'none'}")
    width, bins, _ = variables["conv1/weight"].shape
    layers = 1 + max((int(found[1]) for name in variables if (found := re.match(r"layer_(\d+)/", name))), default=-1)
    inner = len(variables.get("layer_0/ffn/linear_0/bias", ()))
    size = WhisperSize(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=int(heads),
        encoder_ffn_dim=inner,
        num_mel_bins=bins,
    )
    tensors: dict[str, Tensor] = {}
    for name, value in variables.items():
        tensors |= _split(name, value) if _STACKED in name else {_rename(name): value}
    return size, build_network(tensors, size, layers)


def _read_variables(binary: _Binary) -> dict[str, Tensor]:
    """Variables of the encoder, without the ``encoder/`` of their names."""
    found = (binary.number("I"), binary.text(), binary.number("I"))
    if found != _FORMAT:
        raise ValueError(f"expected a model.bin of version, specification and revision {_FORMAT}, got {found}")
    variables = {}
    for _ in range(binary.number("I")):
        name = binary.text()
        sizes = [binary.number("I") for _ in range(binary.number("B"))]
        kind = binary.number("B")
        content = binary.bytes(binary.number("I"))
        if not name.startswith("encoder/"):
            continue
        if name == "encoder/num_heads":
            value = torch.tensor(int.from_bytes(content, "little"))
        elif kind in _FLOATS:
            value = torch.from_numpy(np.frombuffer(content, _FLOATS[kind]).astype(np.float32).reshape(sizes))
        else:
            raise ValueError(
                f"{name}: expected float32 or float16, got type {kind}: convert a model without quantisation"
            )
        variables[name.removeprefix("encoder/")] = value
    return variables


def _rename(name: str) -> str:
    """Name that transformers has for a variable."""
    if name == "position_encodings/encodings":
        return POSITIONS_KEY
    path, _, end = name.rpartition("/")
    layer = re.fullmatch(r"layer_(\d+)/(.*)", path)
    part = path if layer is None else f"layers.{layer[1]}.{_NAMES.get(layer[2], layer[2])}"
    return f"{part}.{_ENDS.get(end, end)}"


def _split(name: str, value: Tensor) -> dict[str, Tensor]:
    """Query, key and value of a stacked weight or bias; the bias of the keys is 0 and left out."""
    path, _, end = name.rpartition("/")
    layer = path.removesuffix(f"/{_STACKED}").removeprefix("layer_")
    parts = dict(zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True))
    if end == "bias" and parts.pop("k_proj").any():
        raise ValueError(f"{name}: expected no bias of the keys, got one")
    return {f"layers.{layer}.self_attn.{part}.{end}": row for part, row in parts.items()}


def pack(network: WhisperNetwork, dtype: str, layers: int) -> dict[str, Tensor]:
    """Tensors to store.

    Args:
        network: whole encoder.
        dtype: ``"int8"`` or ``"float16"``.
        layers: how many to store, from the first on.

    Raises:
        ValueError: for a number of layers that it does not have, or weights beyond the range of float16.
    """
    count = len(network.layers)
    if not 1 <= layers <= count:
        raise ValueError(f"layers: expected 1 … {count}, got {layers}")
    stored: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        index = re.match(r"layers\.(\d+)\.", name)
        if layers < count and (name.startswith("layer_norm.") or (index and int(index[1]) >= layers)):
            continue
        if dtype == "int8" and value.ndim > 1:
            stored[name], stored[name + SCALE] = quantise(value)
        else:
            stored[name] = value.half()
            if not stored[name].isfinite().all():
                raise ValueError(f"{name}: expected values within float16, got up to {value.abs().max():g}")
    return stored


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, …) to int8 and a scale (out,) in float32 each; the error is at most half a scale."""
    rows = weight.flatten(1)
    scale = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * _LARGEST) / _LARGEST
    return (rows / scale[:, None]).round().to(torch.int8).reshape(weight.shape), scale


def convert(source: Path, out: Path, dtype: str = "int8", layers: int | None = None) -> None:
    """Write the folder ``out``, and load it.

    Args:
        source: folder of transformers, or ``model.bin``.
        out: created if missing.
        dtype: of the weights.
        layers: how many, from the first on; None is all.

    Raises:
        ValueError: for a source that is no whole encoder, or a number of layers that it does not have.
    """
    if source.is_dir():
        size = read_size(read_json(source / CONFIG))
        network = read_network(source / WEIGHTS, size)
    else:
        size, network = read_ctranslate2(source)
    tensors = pack(network, dtype, len(network.layers) if layers is None else layers)
    content = to_safetensors({name: value.contiguous() for name, value in tensors.items()}, metadata={"format": "pt"})
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / WEIGHTS, content)
    write_atomically(out / CONFIG, json.dumps({"model_type": "whisper", **asdict(size)}, indent=2) + "\n")
    loaded = WhisperEncoder.from_pretrained(out, revision=hashlib.sha256(content).hexdigest())
    parameters = sum(parameter.numel() for parameter in loaded.network.parameters())
    print(
        f"{out}: {len(loaded.network.layers)} of {size.encoder_layers} layers of {loaded.width}, "
        f"{parameters / 1e6:.1f} M parameters, {len(content) / 1e6:.1f} MB, sha256 {loaded.identity}"
    )


def main() -> None:
    """Convert one model."""
    parser = argparse.ArgumentParser(prog="python -m tools.whisper_encoder", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of transformers, or model.bin of CTranslate2")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--dtype", choices=("int8", "float16"), default="int8")
    parser.add_argument("--layers", type=int, help="how many, from the first on; default all")
    options = parser.parse_args()
    convert(options.source, options.out, options.dtype, options.layers)


if __name__ == "__main__":
    main()
