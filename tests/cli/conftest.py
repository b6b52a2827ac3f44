"""A folder of noise clips, a tiny random expert, and the program in this process."""

import sys

import numpy as np
import pytest

from unisync_loss import UniSyncConfig, UniSyncExpert, save_pretrained
from unisync_loss.cli import main
from unisync_loss.video.encoding import write_clip


@pytest.fixture
def unisync(monkeypatch, capsys):
    """Run the program here, as a new process takes seconds to load PyTorch; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unisync", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        code = end.value.code
        # a text is what Python prints before it leaves with code 1
        return (1, out, f"{err}{code}") if isinstance(code, str) else (code or 0, out, err)

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    draw = np.random.default_rng(0)
    for name in ("a/ann/1.mp4", "a/ben/2.mp4", "b/cat/3.mp4"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = draw.integers(0, 255, (30, 32, 32, 3), dtype=np.uint8)
        write_clip(path, frames, draw.uniform(-0.3, 0.3, 30 * 640).astype(np.float32))
    return root


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(UniSyncExpert(UniSyncConfig(embedding=8)), path)
    return path
