"""Layers shared by both architectures."""

from __future__ import annotations

from torch import Tensor, nn


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
