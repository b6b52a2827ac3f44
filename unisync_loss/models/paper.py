"""Networks of the paper (arXiv 2503.16357, section III), which encode one window at a time.

The paper states the size (16.3 M parameters, 1.73 G multiply-adds for HuBERT and RGB) but not the layers. These have
that size; channels and strides follow Wav2Lip's expert.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from unisync_loss.config import WINDOW_FRAMES, UniSyncConfig
from unisync_loss.models.layers import ConvBlock, GradientFrames, encode_frames, residuals, take_steps
from unisync_loss.utils.image import resize

IMAGE_SIZE = 96  # pixels, as in Wav2Lip


def lower_half(video: Tensor, size: int = IMAGE_SIZE) -> Tensor:
    """Resize frames to a square and keep the lower half, differentiably.

    Args:
        video: (B, T, C, H, W), any H and W; the aspect ratio is not kept, as in Wav2Lip.
        size: side of the square in pixels, even.

    Returns:
        (B, T, C, size // 2, size).
    """
    frames = resize(rearrange(video, "b t c h w -> (b t) c h w"), size, size)
    return rearrange(frames[..., size // 2 :, :], "(b t) c h w -> b t c h w", b=video.shape[0])


def paper_visual_stem(config: UniSyncConfig, *, is_image: bool) -> nn.Sequential:
    """ε1: images (N, 5·C, 48, 96) or vectors (N, 1, 5, E) → (N, 128, 12, 12)."""
    if is_image:
        layers = [
            # Wav2Lip's first layers (its models/syncnet.py): 48 x 96 → 46 x 47 → 23 x 24
            ConvBlock(WINDOW_FRAMES * config.visual_features, 32, 7, 1, 3),
            ConvBlock(32, 64, 5, (1, 2), 1),
            *residuals(64, 2),
            ConvBlock(64, 128, 3, 2),
            *residuals(128, 3),
        ]
    else:
        # "smaller-scale features are subjected to dimensionality increase" (section III-A), by channels and pooling
        layers = [ConvBlock(1, 32), ConvBlock(32, 64), ConvBlock(64, 128)]
    # adaptive pooling brings all representations to one size (Fig. 2); 12 x 12 gives the multiply-adds of Table III
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((12, 12)))


def paper_visual_trunk(config: UniSyncConfig) -> nn.Sequential:
    """ε2: (N, 128, 12, 12) → (N, D, 1, 1) before ReLU."""
    # strides and the last unpadded kernel: 12 → 6 → 3 → 1
    return nn.Sequential(
        ConvBlock(128, 256),
        *residuals(256, 2),
        ConvBlock(256, 512, 3, 2),
        *residuals(512, 2),
        ConvBlock(512, 512, 3, 2),
        ConvBlock(512, 512, 3, 1, 0),
        nn.Conv2d(512, config.embedding, 1, bias=False),
        nn.BatchNorm2d(config.embedding),
    )


def paper_audio_stem() -> nn.Sequential:
    """ε3: (N, 1, L, F) → (N, 64, 10, 14)."""
    layers = [ConvBlock(1, 32), *residuals(32, 2), ConvBlock(32, 64, 3, (1, 3)), *residuals(64, 2)]
    # 10 steps, as HuBERT and Whisper have per window; 14 columns, for the multiply-adds of Table III
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((10, 14)))


def paper_audio_trunk(config: UniSyncConfig) -> nn.Sequential:
    """ε4: (N, 64, 10, 14) → (N, D, 1, 1) before ReLU."""
    return nn.Sequential(
        ConvBlock(64, 128),
        *residuals(128, 1),
        ConvBlock(128, 256, 3, 2),
        *residuals(256, 2),
        ConvBlock(256, 512, 3, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(512, config.embedding, 1, bias=False),
        nn.BatchNorm2d(config.embedding),
    )


class WindowVisualTower(nn.Module):
    """Stacks the frames of every window and encodes each window by itself (``paper``).

    Args:
        config: of the expert.
        is_image: whether inputs are images, of which the lower half is encoded, rather than vectors.

    Shape:
        images (B, T, C, H, W) or vectors (B, T, E) → (B, W, D).
    """

    def __init__(self, config: UniSyncConfig, *, is_image: bool) -> None:
        super().__init__()
        self.stem, self.trunk = paper_visual_stem(config, is_image=is_image), paper_visual_trunk(config)
        self.is_image = is_image

    def forward(
        self, x: Tensor, stride: int = 1, mask: Tensor | None = None, gradient: GradientFrames | None = None
    ) -> Tensor:
        """Encode every ``stride``-th window; ``mask`` changes nothing here, because windows are independent."""
        # images as in Wav2Lip's color_syncnet_train.py
        x = encode_frames(lower_half if self.is_image else nn.Identity(), x, gradient)
        windows = x.unfold(1, WINDOW_FRAMES, stride)
        axes = "b w c h x f -> (b w) (f c) h x" if self.is_image else "b w e f -> (b w) 1 f e"
        embedding = self.trunk(self.stem(rearrange(windows, axes)))
        return rearrange(embedding, "(b w) d 1 1 -> b w d", b=x.shape[0])


class WindowAudioTower(nn.Module):
    """Stacks the steps of every window and encodes each window by itself (``paper``).

    Args:
        config: of the expert.

    Shape:
        (B, L, F) → (B, W, D).
    """

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__()
        self.stem, self.trunk, self.steps = paper_audio_stem(), paper_audio_trunk(config), config.window_steps
        self.period = config.steps_per_frame.as_integer_ratio()

    def forward(self, x: Tensor, windows: int, stride: int = 1) -> Tensor:
        """Encode every ``stride``-th of the windows that begin with successive frames."""
        taken = take_steps(x.unfold(1, self.steps, 1), windows, self.period)[:, ::stride]
        embedding = self.trunk(self.stem(rearrange(taken, "b w e l -> (b w) 1 l e")))
        return rearrange(embedding, "(b w) d 1 1 -> b w d", b=x.shape[0])
