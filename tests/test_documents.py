"""Examples in the documents do what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

import unisync_loss

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["config", "functional", "expert", "loss", "metrics", "synthetic", "adapters.wav2lip", "adapters.geneface"]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(f"unisync_loss.{name}")
    names = {"torch": torch} | {name: getattr(unisync_loss, name) for name in unisync_loss.__all__}
    failed, tried = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


def test_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    video = torch.rand(1, 10, 3, 96, 96, requires_grad=True)
    names = {"video": video, "waveform": torch.randn(1, 6400) / 10}
    exec(code, names)
    assert video.grad.abs().sum() > 0
    assert names["terms"].probability.shape == (1, 6)


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "adapters/README.md",
        "benchmarks/README.md",
        "docs/data.md",
        "docs/training.md",
        "docs/measuring.md",
        "docs/scores.md",
        "unisync_loss/README.md",
        "CHANGELOG.md",
    ],
)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
