"""Small checkpoints and ways to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tools.release import release
from unisync_loss.config import UniSyncConfig
from unisync_loss.models import released
from unisync_loss.models.pretrained import CONFIG, WEIGHTS

SMALLEST = UniSyncConfig(
    audio="hubert", visual="3dmm", audio_features=4, visual_features=4, embedding=8, threshold=0.375, audio_layer=9
)
REPO = "tiny/expert"
#: seconds in which an unreachable Hub must be reported, with room for a busy machine; left alone, the client takes 23 s
#: where nothing listens and 393 s where nothing answers
SOON = 8.0


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def contents(checkpoint: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_weights(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    edit_tensors(checkpoint / WEIGHTS, change)


def edit_config(checkpoint: Path, **values: Any) -> None:
    config = {**json.loads((checkpoint / CONFIG).read_text()), **values}
    (checkpoint / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def release_one(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, **where: str) -> Path:
    """Make a checkpoint the one released expert of the package, ``tiny-one``: the folder of the released experts."""
    weights = checkpoint.parent / "weights"
    release(checkpoint, "tiny-one", weights=weights, **where)
    monkeypatch.setattr(released, "BUNDLED", weights)
    return weights
