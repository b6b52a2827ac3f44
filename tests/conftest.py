"""Shared fixtures: everything offline, one thread, one seed."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, fake_hub, use_hub

from unisync_loss import UniSyncConfig, UniSyncExpert

SHARED = Path(__file__).resolve().parents[2] / "shared"


torch.set_num_threads(1)  # here, so that fixtures of any scope compute alike


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def expert():
    return UniSyncExpert(UniSyncConfig(embedding=16)).eval()


@pytest.fixture(scope="session")
def golden():
    """Numbers made with the original Wav2Lip and SyncNet code; not part of the repository."""
    import numpy as np

    path = SHARED / "golden" / "syncnet_golden.npz"
    if not path.is_file():
        pytest.skip(f"golden numbers are not here ({path})")
    return np.load(path)


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fresh = FakeHub(url=server.url)
    server.__dict__.update(fresh.__dict__)
    use_hub(server.url, tmp_path, monkeypatch)
    return server
