"""The SyncNet of 2016 (Chung and Zisserman, "Out of time"), by which LSE-D and LSE-C are defined.

Rebuilt from its table of layers under the original's parameter names, so that ``syncnet_v2.model`` loads as it is. The
weights are not bundled: the user brings them (README.md says from where). ``lse`` makes the numbers of the embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.lse.mfcc import COEFFICIENTS
from unisync_loss.utils.frozen import FrozenModule
from unisync_loss.utils.tensors import match_weights

SIZE = 224  # pixels of a side
WINDOW_STEPS = 20  # MFCC steps of 10 ms in a window of 5 frames
STEPS_PER_FRAME = 4
EMBEDDING = 1024
_AT_ONCE = 4  # windows in the first layer


class SyncNet(FrozenModule[nn.ModuleDict]):
    """13.6 M parameters in two towers, frozen: the measure must not change when a network that holds it is trained.

    Axes: T video frames at 25 fps, L MFCC steps at 100 Hz, W windows of 5 frames, 20 steps.
    """

    def __init__(self) -> None:
        audio = nn.Sequential(
            *_block(nn.Conv2d(1, 64, 3, padding=1)),
            nn.Identity(),  # the original pools 1 × 1 here
            *_block(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, (1, 2)),
            *_block(nn.Conv2d(192, 384, 3, padding=1)),
            *_block(nn.Conv2d(384, 256, 3, padding=1)),
            *_block(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *_block(nn.Conv2d(256, 512, (5, 4))),
        )
        pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2))
        video = nn.Sequential(
            *_block(nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2))),
            pool,
            *_block(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_block(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            pool,
            *_block(nn.Conv3d(256, 512, (1, 6, 6))),
        )
        # the original's names of parameters
        super().__init__(
            nn.ModuleDict({"netcnnaud": audio, "netcnnlip": video, "netfcaud": _head(), "netfclip": _head()})
        )

    def embed_video(self, frames: Tensor) -> Tensor:
        """Embed every window of five frames; frame positions are computed once, not once a window.

        Args:
            frames: (T, 3, 224, 224) RGB in 0 … 255 (the original's BGR order is put right inside), T at least 5.

        Returns:
            (W, 1024) float32, W = T - 4.

        Raises:
            ValueError: for another shape.
        """
        if frames.ndim != 4 or frames.shape[1:] != (3, SIZE, SIZE) or len(frames) < WINDOW_FRAMES:
            raise ValueError(f"frames: expected (T, 3, {SIZE}, {SIZE}) with T >= 5, got {tuple(frames.shape)}")
        tower = self.network["netcnnlip"]
        assert isinstance(tower, nn.Sequential)
        first, norm, _, pool, *others = tower
        assert isinstance(first, nn.Conv3d)
        assert isinstance(norm, nn.BatchNorm3d)
        fused = fuse_conv_bn_eval(first, norm)
        weight = fused.weight.flip(1)  # to RGB
        video = rearrange(frames, "t c h w -> 1 c t h w").contiguous(memory_format=torch.channels_last_3d)
        video = video.to(weight.dtype)
        # a few windows at a time, pooled while they are in the processor's cache; ReLU may wait until then
        pooled = [
            _pool(rearrange(F.conv3d(piece, weight, fused.bias, first.stride), "1 c w h v -> w c h v"), pool)
            for piece in (video[:, :, start : start + _AT_ONCE + 4] for start in range(0, len(frames) - 4, _AT_ONCE))
        ]
        embedding: Tensor = self.network["netfclip"](_run(others, torch.cat(pooled).relu_()))
        return embedding

    def embed_audio(self, coefficients: Tensor) -> Tensor:
        """Embed the 20 MFCC steps of every window. Windows overlap, but each is padded for itself: none is shared.

        Args:
            coefficients: (L, 13) of :func:`unisync_loss.lse.mfcc.mfcc`, L at least 20.

        Returns:
            (W, 1024) float32, W = (L - 20) // 4 + 1.

        Raises:
            ValueError: for another shape.
        """
        if coefficients.ndim != 2 or coefficients.shape[1] != COEFFICIENTS or len(coefficients) < WINDOW_STEPS:
            raise ValueError(f"coefficients: expected (L, 13) with L >= 20, got {tuple(coefficients.shape)}")
        windows = coefficients.unfold(0, WINDOW_STEPS, STEPS_PER_FRAME)[:, None]
        tower = self.network["netcnnaud"]
        assert isinstance(tower, nn.Sequential)
        embedding: Tensor = self.network["netfcaud"](_run(tower, windows.to(next(tower.parameters()))))
        return embedding


def _block(convolution: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, nn.Module, nn.Module]:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return convolution, norm(convolution.out_channels), nn.ReLU()


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))


def _run(tower: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Convolutional layers in two dimensions, with the norms folded into the convolutions: (N, C, H, W) → (N, 512)."""
    layers = list(tower)
    x = x.contiguous(memory_format=torch.channels_last)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            assert isinstance(following, nn.BatchNorm2d | nn.BatchNorm3d)
            assert isinstance(layer.padding, tuple)
            fused = fuse_conv_bn_eval(layer, following)
            weight = rearrange(fused.weight, "o c 1 h v -> o c h v") if fused.weight.ndim == 5 else fused.weight
            x = F.conv2d(x, weight, fused.bias, _plane(layer.stride), _plane(layer.padding)).relu_()
        elif isinstance(layer, nn.MaxPool2d | nn.MaxPool3d):
            x = _pool(x, layer)
    return x.flatten(1)


def _pool(x: Tensor, layer: nn.Module) -> Tensor:
    """What a pooling layer of two or three dimensions does in the last two."""
    assert isinstance(layer, nn.MaxPool2d | nn.MaxPool3d)
    return F.max_pool2d(x, _plane(layer.kernel_size), _plane(layer.stride), _plane(layer.padding))


def _plane(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """What a layer of two or three dimensions does in the last two."""
    return value[-2:] if isinstance(value, tuple) else value


def load_syncnet(path: str | os.PathLike[str]) -> SyncNet:
    """Load ``syncnet_v2.model`` as its authors publish it, or a copy of it in safetensors format.

    Args:
        path: the file; ``.safetensors``, or anything else for a flat dictionary of tensors written by PyTorch. No
            object but tensors is unpickled.

    Returns:
        The network, frozen.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it holds anything but this network's tensors, all of them, finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such weights file: {path}")
    net = SyncNet()
    expected = net.network.state_dict()
    # counters of training steps are not in files older than PyTorch 0.4.1
    counters = frozenset(key for key in expected if key.endswith("num_batches_tracked"))
    try:
        given = match_weights(_read_tensors(path), expected, optional=counters)
    except ValueError as error:
        raise ValueError(f"{path}: expected the {len(expected)} tensors of syncnet_v2.model, got: {error}") from error
    net.network.load_state_dict({**expected, **given})
    return net


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is something else can fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: expected syncnet_v2.model or its copy in safetensors format ({reason})") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected a dictionary of tensors, got {type(content).__name__}")
    return content
