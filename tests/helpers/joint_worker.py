"""The second process of a joint batch: ``joint_worker.py CLIPS CACHE``, with the environment that torchrun sets."""

import sys
from pathlib import Path

import numpy as np
import torch

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import list_clips
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.pairs import PairSampling
from unisync_loss.training.model import TrainingModel
from unisync_loss.training.stages import BatchSize, ContrastStage, RandomPairStage, parameters_of
from unisync_loss.utils.distributed import ProcessGroup, convert_batch_norms

STAGES = {
    "all": ContrastStage(BatchSize(clips=4, segments=2, frames=13, augment=False)),
    "random": RandomPairStage(PairSampling(cross_share=0.5), 16, augment=False),
}


def gradients(data, group, name):
    """Loss and gradients of one step of a stage, without dropout."""
    torch.manual_seed(0)
    config, stage = UniSyncConfig(visual="landmarks", embedding=16), STAGES[name]
    model = TrainingModel(config, group).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    if group.size > 1:
        convert_batch_norms(model)
    loss = stage.loss(model, stage.draw(data, np.random.default_rng(0), group))["loss"]
    loss.backward()
    group.average_gradients(parameters_of(stage, model))
    parts = group.gather(loss.detach()[None]).mean()
    found = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    running = {f"{key} ": value for key, value in model.state_dict().items() if "running" in key}
    return {"loss": parts, **found, **running}


def main(clips, cache):
    group, _ = ProcessGroup.init("cpu")
    data = CachedClipDataset.from_cache(list_clips(clips), Path(cache), UniSyncConfig(visual="landmarks"), 13)
    for name in STAGES:
        gradients(data, group, name)
    group.destroy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
