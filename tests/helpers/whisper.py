"""Whisper's encoder as transformers computes it, and damaged copies of a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F


def peer_states(folder: Path, waveform: Tensor, samples: int) -> tuple[Tensor, ...]:
    """All hidden states by transformers of a waveform (B, S) with zeros up to ``samples``.

    Its encoder takes exactly as much audio as its config says, and the position embeddings are those of any length.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig.from_pretrained(folder, max_source_positions=samples // 320)
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    padded = list(F.pad(waveform, (0, samples - waveform.shape[1])).numpy())
    extracted = extractor(padded, sampling_rate=16000, padding="do_not_pad", return_tensors="pt")
    encoder = WhisperModel(config).encoder.eval()
    tensors = load_file(folder / "model.safetensors")
    kept = {key: tensors[f"encoder.{key}"] for key in encoder.state_dict() if key != "embed_positions.weight"}
    assert encoder.load_state_dict(kept, strict=False).missing_keys == ["embed_positions.weight"]
    with torch.no_grad():
        states: tuple[Tensor, ...] = encoder(extracted.input_features, output_hidden_states=True).hidden_states
    return states


def changed_copy(folder: Path, out: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """Copy of a model's folder with other tensors."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors")
    return out
