"""No connection is made, and no name looked up, without being asked for."""

import json
import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

#: an audit hook gets every connection of Python code; native code that makes its own is not in these paths
WATCH = """
import json, sys
asked = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        if event != "socket.connect" or not isinstance(arguments[1], (str, bytes)):  # not sockets of this machine
            asked.append(f"{event} {arguments[1:]!r}"[:200])
sys.addaudithook(hook)
"""


def connections(program, tmp_path):
    """What a program connects to, with no setting that keeps it offline, and a Hub that does not answer."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    code = f"{WATCH}\n{program}\nprint(json.dumps(asked))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_loss_on_bundled_experts(tmp_path):
    program = """
import torch
from unisync_loss import UniSyncLoss, list_pretrained
for name in ("mel-rgb", "hubert-rgb", "whisper-rgb"):
    loss = UniSyncLoss.from_pretrained(name)
    loss(torch.rand(1, 5, 3, 32, 32), torch.randn(1, 3200) / 10)
"""
    assert connections(program, tmp_path) == []


@pytest.mark.parametrize("model", ["mel-rgb", "whisper-rgb"])
def test_score(model, folder, tmp_path):
    video = next(folder.rglob("*.mp4"))
    program = f"""
from unisync_loss.cli import app
try:
    app(["score", {str(video)!r}, "--model", {model!r}, "--json", "out.json"])
except SystemExit as end:
    assert not end.code, end.code
"""
    assert connections(program, tmp_path) == []


def test_connections_are_found(tmp_path):
    program = """
from unisync_loss import load_expert
try:
    load_expert("someone/else")
except ValueError:
    pass
"""
    assert any("127.0.0.1" in each for each in connections(program, tmp_path))
