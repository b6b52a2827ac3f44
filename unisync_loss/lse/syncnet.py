"""The SyncNet of 2016 by which LSE-D and LSE-C are defined.

Chung and Zisserman, "Out of time: automated lip sync in the wild", ACCV 2016 workshops. Rebuilt from its table of
layers under the original's parameter names, so that ``syncnet_v2.model`` loads unchanged. The weights are not bundled:
docs/measuring.md says where they are published.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.lse.mfcc import COEFFICIENTS
from unisync_loss.utils.files import recognise_file
from unisync_loss.utils.frozen import FrozenModule
from unisync_loss.utils.tensors import match_weights

SIZE = 224  # pixels of a side
WINDOW_STEPS = 20  # MFCC steps of 10 ms in a window of 5 frames
STEPS_PER_FRAME = 4
EMBEDDING = 1024
_AT_ONCE = 4  # windows in the first layer


class SyncNetLayers(nn.Module):
    """Layers of SyncNet under the original's names, 13.6 M parameters; random until weights are loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
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
        self.netcnnlip = nn.Sequential(
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
        self.netfcaud, self.netfclip = _head(), _head()


class _FoldedLayers(nn.Module):
    """The same layers with batch norms folded into the convolutions, in two dimensions after the first."""

    def __init__(self, layers: SyncNetLayers) -> None:
        super().__init__()
        first, norm, _, pool, *others = layers.netcnnlip
        assert isinstance(first, nn.Conv3d)
        assert isinstance(norm, nn.BatchNorm3d)
        self.first = fuse_conv_bn_eval(first, norm)
        self.first.weight = nn.Parameter(self.first.weight.flip(1))  # from the original's BGR to RGB
        self.pool = _planar(pool)
        self.video, self.audio = _fold(others), _fold(list(layers.netcnnaud))
        self.video_head, self.audio_head = layers.netfclip, layers.netfcaud


class SyncNet(FrozenModule[_FoldedLayers]):
    """Embeddings of SyncNet, frozen: the measure must not change when a network that holds it is trained.

    Axes: T video frames at 25 fps, L MFCC steps at 100 Hz, W windows of 5 frames, 20 steps.

    Args:
        layers: with their weights; see :func:`load_syncnet`.
    """

    def __init__(self, layers: SyncNetLayers) -> None:
        super().__init__(_FoldedLayers(layers.eval()))

    def embed_video(self, frames: Tensor) -> Tensor:
        """Embed every window of five frames; positions of frames are computed once, not once per window.

        Args:
            frames: (T, 3, 224, 224) RGB in 0 … 255, T at least 5.

        Returns:
            (W, 1024) float32, W = T - 4.

        Raises:
            ValueError: for another shape.
        """
        if frames.ndim != 4 or frames.shape[1:] != (3, SIZE, SIZE) or len(frames) < WINDOW_FRAMES:
            raise ValueError(f"frames: expected (T, 3, {SIZE}, {SIZE}) with T >= 5, got {tuple(frames.shape)}")
        net = self.network
        video = rearrange(frames, "t c h w -> 1 c t h w").contiguous(memory_format=torch.channels_last_3d)
        video = video.to(net.first.weight.dtype)
        # a few windows at a time, pooled while they are in the processor's cache; ReLU may wait until then
        pooled = [
            net.pool(rearrange(net.first(part), "1 c w h v -> w c h v"))
            for part in (video[:, :, start : start + _AT_ONCE + 4] for start in range(0, len(frames) - 4, _AT_ONCE))
        ]
        planes = torch.cat(pooled).relu_().contiguous(memory_format=torch.channels_last)
        embedding: Tensor = net.video_head(net.video(planes))
        return embedding

    def embed_audio(self, coefficients: Tensor) -> Tensor:
        """Embed the 20 MFCC steps of every window. Windows overlap, but each is padded by itself: nothing is shared.

        Args:
            coefficients: (L, 13) of :func:`unisync_loss.lse.mfcc.compute_mfcc`, L at least 20.

        Returns:
            (W, 1024) float32, W = (L - 20) // 4 + 1.

        Raises:
            ValueError: for another shape.
        """
        if coefficients.ndim != 2 or coefficients.shape[1] != COEFFICIENTS or len(coefficients) < WINDOW_STEPS:
            raise ValueError(f"coefficients: expected (L, 13) with L >= 20, got {tuple(coefficients.shape)}")
        windows = coefficients.unfold(0, WINDOW_STEPS, STEPS_PER_FRAME)[:, None].to(self.network.first.weight)
        embedding: Tensor = self.network.audio_head(
            self.network.audio(windows.contiguous(memory_format=torch.channels_last))
        )
        return embedding


def _block(convolution: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, nn.Module, nn.Module]:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return convolution, norm(convolution.out_channels), nn.ReLU()


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))


def _fold(layers: list[nn.Module]) -> nn.Sequential:
    """Tower (N, C, H, W) → (N, 512) with the norms folded into the convolutions."""
    folded: list[nn.Module] = []
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            assert isinstance(following, nn.BatchNorm2d | nn.BatchNorm3d)
            folded += [_planar(fuse_conv_bn_eval(layer, following)), nn.ReLU(inplace=True)]
        elif isinstance(layer, nn.MaxPool2d | nn.MaxPool3d):
            folded.append(_planar(layer))
    return nn.Sequential(*folded, nn.Flatten())


def _planar(layer: nn.Module) -> nn.Module:
    """Layer in two dimensions for one in three that acts on single frames; layers in two dimensions stay."""
    if isinstance(layer, nn.MaxPool3d):
        return nn.MaxPool2d(_plane(layer.kernel_size), _plane(layer.stride), _plane(layer.padding))
    if isinstance(layer, nn.Conv3d):
        size, stride = _plane(layer.kernel_size), _plane(layer.stride)
        assert isinstance(layer.padding, tuple)
        planar = nn.Conv2d(layer.in_channels, layer.out_channels, size, stride, _plane(layer.padding))
        planar.weight, planar.bias = nn.Parameter(rearrange(layer.weight, "o c 1 h v -> o c h v")), layer.bias
        return planar
    return layer


def _plane(value: int | tuple[int, ...]) -> tuple[int, int]:
    """The last two of three numbers; one number stands for all."""
    return (value, value) if isinstance(value, int) else (value[1], value[2])


def load_syncnet(path: str | os.PathLike[str]) -> SyncNet:
    """Load ``syncnet_v2.model`` as published by its authors, or a copy of it in safetensors format.

    Args:
        path: ``.safetensors`` file, or with any other suffix a flat dictionary of tensors written by PyTorch. Nothing
            but tensors is unpickled.

    Returns:
        The network, frozen.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when its tensors are not exactly those of this network, all finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such weights file: {path}")
    layers = SyncNetLayers()
    expected = layers.state_dict()
    # counters of training steps are not in files older than PyTorch 0.4.1
    counters = frozenset(key for key in expected if key.endswith("num_batches_tracked"))
    try:
        given = match_weights(_read_tensors(path), expected, optional=counters)
    except ValueError as error:
        raise ValueError(f"{path}: expected the {len(expected)} tensors of syncnet_v2.model, got: {error}") from error
    layers.load_state_dict({**expected, **given})
    return SyncNet(layers)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind can fail in any way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if type(error).__name__ == "UnpicklingError":  # its text advises loading without the restrictions
            reason = "objects other than tensors, which are never loaded"
        found = recognise_file(path) or reason
        raise ValueError(f"{path}: expected syncnet_v2.model or its copy in safetensors format, got {found}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected a dictionary of tensors, got {type(content).__name__}")
    return content
