import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics import MetricCollection

from unisync_loss.functional import offset_matrix
from unisync_loss.lse.distances import LseMeter, summarise
from unisync_loss.metrics import LSEC, LSED, OffsetAccuracy, SyncAccuracy, SyncProbability


def test_sync_accuracy():
    metric = SyncAccuracy(threshold=0.6)
    metric.update(torch.tensor([[0.9, 0.61], [0.6, 0.1]]), torch.tensor([[1, 0], [1, 0]]))
    assert metric.compute() == 0.5
    metric.update(torch.tensor([0.7, 0.7]), torch.tensor([1, 1]))
    assert metric.compute() == pytest.approx(4 / 6)
    metric.reset()
    assert metric.total == metric.count == 0


def test_offset_accuracy():
    draw = torch.rand(5, 60, 32)
    late = (0, 1, 2, -1, -7)
    audio = torch.stack([draw[i, 20 - shift : 50 - shift] for i, shift in enumerate(late)])
    matrix = offset_matrix(audio, draw[:, 20:50])
    metric = OffsetAccuracy()
    metric.update(matrix)
    assert metric.compute() == pytest.approx(3 / 5)
    metric = OffsetAccuracy(tolerance=0)
    metric.update(matrix, torch.tensor(late))
    assert metric.compute() == 1
    metric.update(matrix[:1, :3], 15)  # of three windows, most offsets have no pair
    assert metric.compute() == pytest.approx(5 / 6)


def test_sync_probability(expert):
    video, audio = torch.rand(3, 7, 3, 96, 96), torch.randn(3, 7 * 640) / 10
    metric = SyncProbability(expert)
    for part in (slice(0, 1), slice(1, 3)):
        metric.update(video[part], audio[part])
    with torch.no_grad():
        assert metric.compute() == pytest.approx(expert(video, audio).mean().item(), rel=1e-5)


def test_calibrated_sync_probability(expert):
    with pytest.raises(ValueError, match="expected a calibrated expert"):
        SyncProbability(expert, calibrated=True)
    expert.config = replace(expert.config, temperature=0.1, midpoint=0.45)
    video, audio = torch.rand(2, 7, 3, 96, 96), torch.randn(2, 7 * 640) / 10
    metric = SyncProbability(expert, calibrated=True)
    metric.update(video, audio)
    with torch.no_grad():
        expected = torch.sigmoid((expert(video, audio) - 0.45) / 0.1).mean().item()
    assert metric.compute() == pytest.approx(expected, rel=1e-4)


def clips(count, frames=7, size=32):
    video = torch.rand(count, frames, 3, size, size)
    return video, (torch.randn(count, frames * 640) / 10).clamp(-1, 1)


@pytest.mark.parametrize("edge", ["legacy", "valid"])
def test_lip_sync_error_is_that_of_the_frames_written_to_a_file(syncnet, edge):
    video, waveform = clips(2)
    results = []
    for frames, samples in zip(video, waveform, strict=True):
        meter = LseMeter(syncnet, np.clip(np.round(samples.numpy() * 32768), -32768, 32767).astype(np.int16))
        for frame in F.interpolate(frames * 255, (224, 224), mode="bilinear"):
            meter.add(frame.round().to(torch.uint8))
        results.append(summarise(meter.distances(edge)))
    for metric, index in ((LSED(syncnet, edge), 0), (LSEC(syncnet, edge), 1)):
        metric.update(video[:1], waveform[:1])
        metric.update(video[1:], waveform[1:])
        assert metric.compute() == pytest.approx(np.mean([result[index] for result in results]), rel=1e-5)


def test_a_collection_runs_the_network_once_for_both(syncnet, monkeypatch):
    runs = []
    embed = type(syncnet).embed_video
    monkeypatch.setattr(type(syncnet), "embed_video", lambda net, frames: (runs.append(1), embed(net, frames))[1])
    metrics = MetricCollection([LSED(syncnet), LSEC(syncnet)])
    metrics.update(*clips(1))
    first = len(runs)
    metrics.update(*clips(1))
    assert len(runs) - first == 1
    assert metrics.compute()["LSED"] != metrics.compute()["LSEC"]


def test_autocast_does_not_reach_them(syncnet):
    video, waveform = clips(1)
    metric, inside = LSED(syncnet), LSED(syncnet)
    metric.update(video, waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside.update(video, waveform)
    assert metric.compute() == inside.compute()


def test_networks_stay_out_of_a_parents_checkpoint(syncnet, expert):
    parent = torch.nn.ModuleDict({"a": SyncProbability(expert), "b": LSED(syncnet)})
    assert parent.state_dict() == {}
    assert list(parent.parameters()) == []
    parent.train()
    assert not expert.training


def test_directions():
    better = {SyncAccuracy: True, OffsetAccuracy: True, SyncProbability: True, LSEC: True, LSED: False}
    for metric, higher in better.items():
        assert metric.higher_is_better is higher
        assert metric.is_differentiable is False


def test_wrong_input(syncnet):
    with pytest.raises(ValueError, match="expected two of one shape"):
        SyncAccuracy().update(torch.rand(3), torch.ones(2))
    with pytest.raises(ValueError, match=r"matrix: expected \(B, W, K\) with K odd, got \(2, 5, 30\)"):
        OffsetAccuracy().update(torch.rand(2, 5, 30))
    for target in (torch.zeros(3), torch.ones(2, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"target: expected \(B,\) = \(2,\) in numbers, got \([23],\)"):
            OffsetAccuracy().update(torch.rand(2, 5, 31), target)
    video, waveform = clips(2)
    metric = LSED(syncnet)
    with pytest.raises(ValueError, match=r"video: expected \(B, T, 3, H, W\) floating point, got"):
        metric.update((video * 255).byte(), waveform)
    with pytest.raises(ValueError, match=r"waveform: expected \(2, S\) floating point, got \(1, 4480\)"):
        metric.update(video, waveform[:1])
    with pytest.raises(ValueError, match="at least 6 frames"):
        metric.update(video[:, :5], waveform[:, :3200])
    with pytest.raises(ValueError, match=r"video: expected rgb in \[0, 1\]"):
        metric.update(255 * video, waveform)
    with pytest.raises(ValueError, match="audio: expected finite"):
        metric.update(video, waveform / 0)
    with pytest.raises(ValueError, match=r"audio: expected about \(B, 4480\) samples"):
        metric.update(video, waveform[:, :2240])
    assert metric.count == 0


@pytest.mark.parametrize("wrong", [None, "0.5", [1], True, np.zeros(2), torch.zeros(2, 3)])
def test_no_tensors_and_no_numbers(syncnet, wrong):
    for metric in (SyncAccuracy, OffsetAccuracy):
        with pytest.raises(ValueError, match="expected a number, got"):
            metric(wrong)
    for arguments in ((wrong, torch.rand(2)), (torch.rand(2), wrong)):
        with pytest.raises(ValueError, match="expected two "):
            SyncAccuracy().update(*arguments)
    with pytest.raises(ValueError, match="matrix: expected"):
        OffsetAccuracy().update(wrong)
    with pytest.raises(ValueError, match="target: expected"):
        OffsetAccuracy().update(torch.rand(2, 5, 31), wrong)
    video, waveform = clips(1)
    for arguments in ((wrong, waveform), (video, wrong)):
        with pytest.raises(ValueError, match=r"(video|waveform): expected"):
            LSED(syncnet).update(*arguments)
    with pytest.raises(ValueError, match='edge: expected "legacy" or "valid"'):
        LSED(syncnet, edge=wrong).update(video, waveform)


def test_what_is_doubtful_is_logged_once(syncnet, caplog):
    video, waveform = clips(1)
    metric = LSEC(syncnet)
    for _ in range(2):
        metric.update(video, 0 * waveform)
    assert caplog.text.count("expected speech, got silence") == 1


@pytest.mark.parametrize(("metric", "loader"), [(SyncProbability, "load_expert"), (LSED, "load_syncnet")])
def test_a_name_in_place_of_a_network(metric, loader):
    with pytest.raises(ValueError, match=f"got 'mel-rgb': use .*{loader}"):
        metric("mel-rgb")


def fed(process, processes, net, expert):
    """All metrics, each fed this process's share of three clips."""
    torch.manual_seed(3)
    video, waveform = clips(3, frames=8)
    probability, target = torch.rand(3, 9), torch.rand(3, 9) > 0.5
    matrix = torch.rand(3, 9, 31)
    metrics = [
        SyncAccuracy(),
        OffsetAccuracy(tolerance=6),
        SyncProbability(expert),
        LSED(net, "valid"),
        LSEC(net, "valid"),
    ]
    share = slice(process, None, processes)
    for metric, inputs in zip(
        metrics,
        [(probability, target), (matrix,), (video, waveform), (video, waveform), (video, waveform)],
        strict=True,
    ):
        metric.update(*(value[share] for value in inputs))
    return metrics


def work(process, store, net, expert, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=process, world_size=2)
    try:
        queue.put([metric.compute().item() for metric in fed(process, 2, net, expert)])
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_equal_one(syncnet, expert, tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (tmp_path / "store", copy.deepcopy(syncnet), expert, queue)
    worker = context.Process(target=work, args=(1, *arguments), daemon=True)
    worker.start()
    work(0, *arguments)  # the other process is this one
    together = [queue.get(timeout=120) for _ in range(2)]
    worker.join(30)
    alone = [metric.compute().item() for metric in fed(0, 1, syncnet, expert)]
    assert together[0] == together[1] == pytest.approx(alone, rel=1e-5)
    halves = [metric.compute().item() for metric in fed(0, 2, syncnet, expert)]
    assert all(half != whole for half, whole in zip(halves, alone, strict=True))  # three clips are not two
