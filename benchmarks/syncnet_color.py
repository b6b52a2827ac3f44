"""Wav2Lip's SyncNet architecture with random weights, reimplemented from its table of layers for timing."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

#: (channels, kernel, stride, padding, blocks with a shortcut that follow)
# fmt: off
FACE = ((32, 7, 1, 3, 0), (64, 5, (1, 2), 1, 2), (128, 3, 2, 1, 3), (256, 3, 2, 1, 2), 
    (512, 3, 2, 1, 2), (512, 3, 2, 1, 0), (512, 3, 1, 0, 0), (512, 1, 1, 0, 0),
)
AUDIO = ((32, 3, 1, 1, 2), (64, 3, (3, 1), 1, 2), (128, 3, 3, 1, 2), (256, 3, (3, 2), 1, 2),
    (512, 3, 1, 0, 0), (512, 1, 1, 0, 0),
)
# fmt: on


class Block(nn.Module):
    """Convolution with bias, batch norm, optional shortcut, ReLU."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int | tuple[int, int], padding: int, shortcut: bool
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(before, after, kernel, stride, padding), nn.BatchNorm2d(after))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', H', W')."""
        out: Tensor = self.layers(x)
        return (out + x if self.shortcut else out).relu()


def tower(channels: int, table: tuple[tuple[int, int, int | tuple[int, int], int, int], ...]) -> nn.Sequential:
    """Build a tower from its table."""
    layers = []
    for after, kernel, stride, padding, shortcuts in table:
        layers.append(Block(channels, after, kernel, stride, padding, False))
        layers += [Block(after, after, 3, 1, 1, True) for _ in range(shortcuts)]
        channels = after
    return nn.Sequential(*layers)


class SyncNetColor(nn.Module):
    """Face (N, 15, 48, 96) and mel (N, 1, 80, 16) to two unit embeddings (N, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.face, self.audio = tower(15, FACE), tower(1, AUDIO)

    def forward(self, mel: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
        """Embed both."""
        return F.normalize(self.audio(mel).flatten(1)), F.normalize(self.face(face).flatten(1))


def wav2lip_sync_loss(net: SyncNetColor, mel: Tensor, frames: Tensor) -> Tensor:
    """Wav2Lip's generator-side loss: lower half, frames stacked on channels, BCE of the cosine to 1.

    Args:
        net: frozen.
        mel: (N, 1, 80, 16).
        frames: (N, 3, 5, 96, 96).
    """
    face = rearrange(frames[..., 48:, :], "n c t h w -> n (t c) h w")
    audio, visual = net(mel, face)
    cosine = F.cosine_similarity(audio, visual).clamp(0, 1)  # the original has no clamp and can fail at 1 + 1e-7
    return F.binary_cross_entropy(cosine, torch.ones_like(cosine))
