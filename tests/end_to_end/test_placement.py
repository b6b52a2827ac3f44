"""Everything on the GPU that was asked for: PyTorch's fake tensors know their device and hold no numbers.

What mixes devices raises here as it would on a real GPU, which few machines that run these tests have.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss
from unisync_loss.inputs.calls import CheckedCalls
from unisync_loss.training.data.loading import list_folders, load_clips
from unisync_loss.training.model import TrainingModel, build_audio_encoder, encode_audio_batch, encode_visual_batch
from unisync_loss.training.settings import expert_config, resolve
from unisync_loss.utils.distributed import ALONE

GPU = torch.device("cuda", 0)
AUDIOS, VISUALS = ("mel", "hubert", "whisper"), ("rgb", "parsing", "landmarks", "3dmm")
PAIRS = [(audio, visual) for audio in AUDIOS for visual in VISUALS]


class Made(TorchDispatchMode):
    """Answers what cannot be known without numbers, such as how many booleans are true."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.nonzero.default:
            return torch.zeros(2, args[0].ndim, dtype=torch.long, device=args[0].device)
        if func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
            [chosen] = args[1]
            assert chosen.device == args[0].device
            return args[0].flatten(0, chosen.ndim - 1)[:2]
        if func is torch.ops.aten._local_scalar_dense.default:
            return {torch.bool: True, torch.float32: 0.5}.get(args[0].dtype, 30)
        if func is torch.ops.aten._pin_memory.default:
            return args[0]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: np.zeros(tuple(self.shape), np.float32))
    with FakeTensorMode(allow_non_fake_inputs=True), Made():
        yield


def moved(network):
    """The network on the pretended GPU, as by ``.to``: parameters and buffers, and nothing else."""
    for module in network.modules():
        for kept, wrap in ((module._parameters, nn.Parameter), (module._buffers, lambda value: value)):
            for name, value in kept.items():
                if value is not None:
                    kept[name] = wrap(torch.empty(value.shape, dtype=value.dtype, device=GPU))
    return network


def shown(config):
    """A video and a sound of a second."""
    video = {
        "rgb": (25, 3, 96, 96),
        "parsing": (25, 6, 128, 128),
        "landmarks": (25, 68, 2),
        "3dmm": (25, config.visual_features),
    }[config.visual]
    audio = (16000,) if config.audio == "mel" else (50, config.audio_features)
    return torch.empty(2, *video, device=GPU), torch.empty(2, *audio, device=GPU)


def test_what_mixes_devices_is_seen(fake):
    """The truth that the tests below rest on."""
    with pytest.raises(RuntimeError, match="two different devices"):
        torch.zeros(3, device=GPU) + torch.zeros(3)


@pytest.mark.parametrize("architecture", ["small", "paper"])
@pytest.mark.parametrize(("audio", "visual"), PAIRS)
def test_the_loss(fake, monkeypatch, audio, visual, architecture):
    monkeypatch.setattr(CheckedCalls, "due", False)  # checks of values read numbers, of which there are none here
    config = UniSyncConfig(audio=audio, visual=visual, architecture=architecture)
    loss = UniSyncLoss(UniSyncExpert(config))
    moved(loss.expert)
    video, sound = shown(config)
    mask, weights = torch.ones(2, 25, dtype=torch.bool, device=GPU), torch.ones(2, 21, device=GPU)
    terms = loss(video, sound, mask=mask, weights=weights, return_terms=True)
    assert {value.device for value in terms} == {GPU}


@pytest.mark.parametrize(
    ("audio", "visual", "architecture"),
    [*[("mel", visual, "small") for visual in VISUALS], ("mel", "rgb", "paper"), ("whisper", "landmarks", "small")],
)
def test_training_and_validation(folder, cache, audio_models, tmp_path, request, audio, visual, architecture):
    config = expert_config(audio, visual, architecture=architecture)
    config, listen = build_audio_encoder(config, audio_models[audio].get("audio_model"), tmp_path)
    data = load_clips("clips", list_folders([str(folder)]), cache, config, 13, 1, listen, lambda line: None)
    options = {"folders": ["clips"], "out": "run", "audio": audio, "visual": visual}
    stages = []
    for recipe in (["recipe.clips=4"], ["recipe.name=random_pairs", "recipe.batch=16"]):
        settings, _ = resolve(options, None, [f"expert.architecture={architecture}", *recipe])
        stages.append([spec.objective for spec in settings.stages(config)])
    drawn = [[(stage, stage.draw(data, np.random.default_rng(0), ALONE)) for stage in each] for each in stages]
    model = TrainingModel(config)
    request.getfixturevalue("fake")
    moved(model)
    for recipe in drawn:
        for stage, batch in recipe:
            with GPU:
                terms = stage.loss(model, batch.to(GPU))
            assert {value.device for value in terms.values()} == {GPU}
        with GPU:  # as validation does
            batch = recipe[-1][1].to(GPU)
            visual_embedding = encode_visual_batch(model, batch, augmented=False)
            audio_embedding = encode_audio_batch(model, batch, augmented=False)
        assert visual_embedding.device == audio_embedding.device == GPU
