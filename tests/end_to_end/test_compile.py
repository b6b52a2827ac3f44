"""The loss inside ``torch.compile``: one graph, the same value and gradient, nothing that is copied to a device."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss

PAIRS = [("mel", "rgb"), ("hubert", "rgb"), ("whisper", "rgb"), ("mel", "landmarks"), ("hubert", "landmarks")]


def make(audio, visual, batch=2, frames=7, **options):
    config = UniSyncConfig(audio=audio, visual=visual, embedding=8)
    shape = (3, 32, 32) if visual == "rgb" else (68, 2)
    features = (80, 23) if audio == "mel" else (2 * frames, config.audio_features)
    loss = UniSyncLoss(UniSyncExpert(config), **options)
    return loss, torch.rand(batch, frames, *shape, requires_grad=True), torch.randn(batch, *features).clamp(-4, 4)


def step(function, video, *arguments, **options):
    value = function(video, *arguments, **options)
    return value, torch.autograd.grad(value, video)[0]


@pytest.mark.parametrize(("audio", "visual"), PAIRS)
def test_one_graph_for_all_steps(audio, visual):
    loss, video, sound = make(audio, visual)
    expected = step(loss, video, sound)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=(counter := CompileCounter()))
    for _ in range(3):
        for ours, theirs in zip(step(compiled, video, sound), expected, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6, rtol=1e-4)
        loss(video, sound)  # a call outside of the graph, which is counted, changes nothing
    assert counter.frame_count == 1


def test_the_options_of_a_call():
    loss, video, sound = make("mel", "rgb", value_range=(-1, 1), channel_order="bgr")
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 6] = False
    boxes, weights = torch.tensor([[2.0, 3.0, 30.0, 28.0]] * 2), torch.tensor([1.0, 2.0])
    options = {"mask": mask, "boxes": boxes, "weights": weights, "video_real": 0.9 * video.detach(), "windows": 2}
    options["grad_frames"] = 3
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    embedding = loss.encode_audio(sound, 7)
    _, gradient = step(compiled, video, audio_embedding=embedding, **options)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_the_backward_pass_is_compiled():
    loss, video, sound = make("mel", "rgb")
    torch._dynamo.reset()
    pairs = zip(
        step(torch.compile(loss, fullgraph=True, backend="aot_eager"), video, sound),
        step(loss, video, sound),
        strict=True,
    )
    assert all(torch.allclose(ours, theirs, atol=1e-6, rtol=1e-4) for ours, theirs in pairs)


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ["small", "paper"])
@pytest.mark.parametrize(("audio", "visual"), PAIRS)
def test_no_table_is_built_at_a_call(audio, visual, architecture):
    config = UniSyncConfig(audio=audio, visual=visual, architecture=architecture, embedding=8)
    _, video, sound = make(audio, visual)
    loss = UniSyncLoss(UniSyncExpert(config))
    for _ in range(3):
        loss(video, sound)  # the calls that check values
    with Operators() as ran:
        loss(video, sound).backward()
    assert "leaky_relu" in ran.names
    # torch.tensor(…), an index given as a list, arange(…), linspace(…), .item()
    assert not ran.names & {"lift_fresh", "lift_fresh_copy", "arange", "linspace", "_local_scalar_dense"}
