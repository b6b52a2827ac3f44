"""Fixtures of checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import SMALLEST

from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.models.pretrained import save_pretrained


@pytest.fixture(scope="module")
def tiny_expert() -> UniSyncExpert:
    torch.manual_seed(0)
    made = UniSyncExpert(SMALLEST)
    for name, buffer in made.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(70_000)  # would be infinite in float16
    return made.eval()


@pytest.fixture(scope="module")
def original(tiny_expert: UniSyncExpert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_pretrained(tiny_expert, checkpoint, dtype=torch.float16)
    return checkpoint


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))
