"""Layers shared by both architectures, and the folding of their batch norms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

Network = TypeVar("Network", bound=nn.Module)


class ConvBlock(nn.Module):
    """Convolution, batch norm, optional shortcut, ReLU.

    Args:
        before: channels of the input.
        after: channels of the output.
        kernel: of the convolution.
        stride: of the convolution.
        padding: of the convolution.
        residual: add the input, whose size must be that of the output, except for unpadded steps of time.

    Shape:
        (N, before, H, W) → (N, after, H', W').
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(after)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; see the class for shapes."""
        out: Tensor = self.norm(self.conv(x))
        if self.residual:
            cut = (x.shape[-1] - out.shape[-1]) // 2  # unpadded time loses a step at each end
            out = out + x[..., cut : x.shape[-1] - cut]
        return out.relu()


def residuals(channels: int, count: int) -> list[nn.Module]:
    """Blocks with a shortcut."""
    return [ConvBlock(channels, channels, residual=True) for _ in range(count)]


class GradientFrames(NamedTuple):
    """Which frames of a clip a gradient reaches.

    Attributes:
        order: (T,) places of all frames, those with a gradient first.
        number: of frames with a gradient, below T.
    """

    order: Tensor
    number: int


def encode_frames(encode: Callable[[Tensor], Tensor], frames: Tensor, gradient: GradientFrames | None) -> Tensor:
    """Encode frames (B, T, …) by a function of single frames; those without a gradient cost a forward pass only."""
    if gradient is None:
        return encode(frames)
    ordered = frames[:, gradient.order]
    parts = encode(ordered[:, : gradient.number]), encode(ordered[:, gradient.number :].detach())
    return torch.cat(parts, 1)[:, gradient.order.argsort()]


def take_steps(dense: Tensor, count: int, period: tuple[int, int]) -> Tensor:
    """Take the steps at which the windows of ``count`` successive frames begin.

    By slices, because a list of steps would be copied to the device at every call.

    Args:
        dense: (B, L, …), a value for each step; where it ends too early, zeros.
        count: number of frames.
        period: steps and frames after which both begin together, (16, 5) for mel.

    Returns:
        (B, count, …), those at step floor(f · steps / frames) for frame f.
    """
    steps, frames = period
    periods = -(-count // frames)
    dense = dense[:, : steps * periods]
    dense = F.pad(dense, (0, 0) * (dense.ndim - 2) + (0, steps * periods - dense.shape[1]))
    blocks = rearrange(dense, "b (q s) ... -> b q s ...", s=steps)
    taken = torch.stack([blocks[:, :, steps * frame // frames] for frame in range(frames)], 2)
    return rearrange(taken, "b q f ... -> b (q f) ...")[:, :count]


def fold_batch_norms(network: Network) -> Network:
    """Copy a network with every batch norm folded into the convolution or linear layer before it, in eval mode.

    The copy computes the same up to rounding, is cheaper, and cannot be trained: its ``state_dict()`` has other keys.

    Args:
        network: in which every batch norm directly follows such a layer; it is not changed.
    """
    # tensors first: one made in inference mode, or a fake one, cannot be copied with the modules
    copies: dict[int, Any] = {id(value): value.clone() for value in network.buffers()}
    copies |= {id(value): nn.Parameter(value.detach().clone(), False) for value in network.parameters()}
    folded = copy.deepcopy(network, copies).eval()
    for module in list(folded.modules()):
        children: list[tuple[str, Any]] = list(module.named_children())
        for (_, layer), (name, norm) in pairwise(children):
            if isinstance(norm, _BatchNorm):
                statistics: tuple[Any, ...] = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                fuse = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
                layer.weight, layer.bias = fuse(layer.weight, layer.bias, *statistics)
                setattr(module, name, nn.Identity())
    return folded
