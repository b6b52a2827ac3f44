"""Data-parallel training: shards, gathered batches, batch norms over all processes."""

import copy
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.joint_worker import STAGES, gradients
from helpers.paths import ROOT

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.utils.distributed import ALONE, ProcessGroup, convert_batch_norms

CONFIG = UniSyncConfig(visual="landmarks", embedding=16)


@pytest.fixture(scope="module")
def data(folder, cache):
    return CachedClipDataset.from_cache(list_clips(folder), cache, CONFIG, 13)


@pytest.fixture(scope="module")
def joint(data, folder, cache):
    """Losses and gradients of two processes that share a batch: this one and another, as torchrun describes them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, ROOT / "tests/helpers/joint_worker.py", folder, cache]
    other = {**os.environ, **place, "RANK": "1", "LOCAL_RANK": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**place, "RANK": "0", "LOCAL_RANK": "0"}.items():
            patch.setenv(name, value)
        worker = subprocess.Popen(list(map(str, command)), env=other, stderr=subprocess.PIPE, text=True)
        try:
            group, _ = ProcessGroup.init("cpu")
            try:
                assert group == ProcessGroup(0, 2)
                found = {name: gradients(data, group, name) for name in STAGES}
            finally:
                group.destroy()
            _, problem = worker.communicate(timeout=100)
        finally:
            worker.kill()
    assert worker.returncode == 0, problem[-3000:]
    return found


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_are_one(joint, data, name):
    ours, theirs = gradients(data, ALONE, name), joint[name]
    assert ours.keys() == theirs.keys()
    assert theirs["loss"].item() == pytest.approx(ours["loss"].item(), rel=1e-9)
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], atol=1e-8, rtol=1e-6), key


def test_devices():
    assert ProcessGroup.init("cpu") == (ALONE, torch.device("cpu"))
    with pytest.raises(ValueError, match="expected cpu, or cuda if there is a GPU, got 'tpu'"):
        ProcessGroup.init("tpu")


def test_parts_are_even():
    rows = np.arange(6)
    assert [ProcessGroup(rank, 3).shard(rows).tolist() for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match="expected a batch size divisible by 4 processes, got 6"):
        ProcessGroup(0, 4).shard(rows)


@pytest.mark.skipif(not hasattr(torch.nn.Module, "compile"), reason="training compiles from PyTorch 2.2 on")
def test_joint_norms_have_the_gradients_of_plain_ones():
    """Without a C++ compiler: it is in capturing the graph that a joint sum can lose its gradient."""
    plain = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 1), torch.nn.BatchNorm1d(8), torch.nn.Conv1d(8, 8, 3))
    joint, video = copy.deepcopy(plain), torch.randn(3, 4, 9)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        convert_batch_norms(joint)
        joint.compile(backend="aot_eager", dynamic=False)
        for network in (plain, joint):
            network(video).relu().square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for ours, theirs in zip(joint.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)
