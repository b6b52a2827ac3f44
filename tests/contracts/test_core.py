"""The loss and the adapters need torch, numpy, einops and safetensors: shown with every other package blocked."""

import json
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CORE = ("torch", "numpy", "einops", "safetensors")
PROGRAM = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
import torch, unisync_loss.adapters.geneface, unisync_loss.adapters.wav2lip
from unisync_loss import UniSyncLoss

torch.set_num_threads(1)
waveform, mel, features = torch.randn(1, 3840) / 9, torch.randn(1, 80, 19).clamp(-4, 4), torch.randn(1, 12, 384)
for name, audio in ("mel", mel), ("mel", waveform), ("hubert", features), ("whisper", waveform), ("hubert", waveform):
    loss = UniSyncLoss.from_pretrained(f"{name}-rgb-robust")
    video = torch.rand(1, 6, 3, 64, 64, requires_grad=True)
    loss(video, audio).backward()
    print(name, tuple(audio.shape), bool(video.grad.isfinite().all() and video.grad.abs().sum() > 0))
"""


@pytest.fixture(scope="module")
def others():
    """Names to import of everything installed but the four packages, what they need, and this one."""
    wanted, needed = [*CORE], {"unisync-loss"}
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name not in needed:
            needed.add(name)
            lines = [Requirement(line) for line in metadata.requires(name) or ()]
            wanted += [line.name for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    found = metadata.packages_distributions().items()
    blocked = [top for top, names in found if not needed & {canonicalize_name(name) for name in names}]
    assert {"transformers", "huggingface_hub"} <= {*blocked}
    return json.dumps(blocked)


def test_a_step_with_the_core_alone(others):
    """The last input is the one that needs more."""
    command = [sys.executable, "-c", PROGRAM, others]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    steps = ["mel (1, 80, 19)", "mel (1, 3840)", "hubert (1, 12, 384)", "whisper (1, 3840)"]
    assert done.stdout.splitlines() == [f"{step} True" for step in steps], done.stderr
    assert done.stderr.splitlines()[-1] == "ImportError: HuBERT needs transformers: pip install 'transformers>=4.37'"
