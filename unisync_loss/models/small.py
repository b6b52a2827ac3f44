"""Networks of the ``small`` architecture, under 5 M parameters.

The visual stem encodes each frame once, and the trunks slide over time without padding, so a clip of T frames costs T
frames, not 5·T. On RGB the embedding of a window depends on that window alone. Landmarks, coefficients and parsing maps
describe the person more than the speech, so the mean over all frames given is subtracted from their features.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from unisync_loss.config import UniSyncConfig
from unisync_loss.models.layers import ConvBlock, GradientFrames, encode_frames, residuals, take_steps
from unisync_loss.models.mouth_aligner import PATCH_SIZE, MouthAligner
from unisync_loss.representations.parsing import mouth_of_maps
from unisync_loss.utils.image import standardise_images

#: per frame, of the visual stem: more than the 104 numbers of the mouth's motion, which training puts first
FRAME_FEATURES = 192
#: pixels of the mouth cut out of a parsing map, less than PATCH_SIZE, as maps have no texture; with it the AUC of
#: mel-parsing on val was 0.859 after 200 steps (docs/scores.md)
MOUTH_SIZE = 48


class FrameStem(nn.Module):
    """Small ε1 for images: the mouth of each frame → features of the frame.

    Args:
        channels: of the images.
        side: of the images in pixels, a multiple of 16.
        colour: whether channels differ; False takes their mean.

    Shape:
        (N, channels, side, side) → (N, 192).
    """

    def __init__(self, channels: int, side: int = PATCH_SIZE, *, colour: bool = True) -> None:
        super().__init__()
        self.colour = colour
        self.layers = nn.Sequential(
            # four strides of 2: 64 → 4 pixels, or 48 → 3
            ConvBlock(channels, 24, 5, 2, 2),
            ConvBlock(24, 48, 3, 2),
            *residuals(48, 1),
            ConvBlock(48, 96, 3, 2),
            *residuals(96, 1),
            ConvBlock(96, 160, 3, 2),
            *residuals(160, 1),
        )
        self.out = nn.Sequential(nn.Linear(160 * (side // 16) ** 2, FRAME_FEATURES), nn.BatchNorm1d(FRAME_FEATURES))

    def forward(self, mouths: Tensor) -> Tensor:
        """Encode; see the class for shapes."""
        if not self.colour:  # the mean and not the luma, whose gradient would be mostly green
            mouths = mouths.mean(1, keepdim=True).expand_as(mouths)
        features: Tensor = self.out(self.layers(standardise_images(mouths)).flatten(1))
        return features


class FrameTrunk(nn.Sequential):
    """Small ε2, which slides over time: features of frames (B, 192, T) → (B, D, T - 4).

    The two kernels of 3 frames together span the 5 frames of a window.
    """

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__(
            nn.Conv1d(FRAME_FEATURES, 256, 1, bias=False),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Conv1d(256, 320, 3, bias=False),
            nn.BatchNorm1d(320),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv1d(320, 320, 3, bias=False),
            nn.BatchNorm1d(320),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv1d(320, config.embedding, 1, bias=False),
            nn.BatchNorm1d(config.embedding),  # ReLU follows in sync_probability (UniSync, section III-B)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Encode; see the class for shapes."""
        # torch.compile does not compile modules of torch itself, and this method makes the trunk a module of ours
        encoded: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return encoded


class DenseVisualTower(nn.Module):
    """Encodes each frame once, then slides over time (``small``).

    Args:
        config: of the expert.
        is_image: whether its visual representation gives images rather than vectors.

    Shape:
        images (B, T, C, H, W) or vectors (B, T, E) → (B, W, D).
    """

    def __init__(self, config: UniSyncConfig, *, is_image: bool) -> None:
        super().__init__()
        self.aligner = MouthAligner() if config.has_mouth_aligner else None
        self.is_image = is_image
        self.stem: nn.Module
        if is_image:
            side = PATCH_SIZE if config.has_mouth_aligner else MOUTH_SIZE
            self.stem = FrameStem(config.visual_features, side, colour=config.colour)
        else:
            self.stem = nn.Sequential(nn.Linear(config.visual_features, FRAME_FEATURES), nn.BatchNorm1d(FRAME_FEATURES))
        self.trunk = FrameTrunk(config)

    def forward(
        self, x: Tensor, stride: int = 1, mask: Tensor | None = None, gradient: GradientFrames | None = None
    ) -> Tensor:
        """Encode every ``stride``-th window; frames where ``mask`` (B, T) is False are excluded from the mean."""
        features = encode_frames(self.frame_features, x, gradient)
        if self.aligner is None:
            # raised the AUC of mel-landmarks on val from 0.848 to 0.870 (docs/scores.md)
            features = features - mean_over_frames(features, mask)
        return self.encode_frames(features)[:, ::stride]

    def frame_features(self, x: Tensor) -> Tensor:
        """Images (B, T, C, H, W) or vectors (B, T, E) → features of each frame by itself (B, T, 192)."""
        frames = rearrange(x, "b t ... -> (b t) ...")
        if self.aligner is not None:
            frames = self.aligner.crop_mouths(frames)
        elif self.is_image:
            frames = mouth_of_maps(frames, MOUTH_SIZE)
        return self.frame_features_from_crops(rearrange(frames, "(b t) ... -> b t ...", b=x.shape[0]))

    def frame_features_from_crops(self, crops: Tensor) -> Tensor:
        """Mouth crops (B, T, C, side, side) or vectors (B, T, E) → features of each frame by itself (B, T, 192)."""
        features = self.stem(rearrange(crops, "b t ... -> (b t) ..."))
        return rearrange(features, "(b t) c -> b t c", b=crops.shape[0])

    def encode_frames(self, features: Tensor) -> Tensor:
        """Frame features (B, T, 192) → (B, T - 4, D), every window."""
        return rearrange(self.trunk(rearrange(features, "b t c -> b c t")), "b d w -> b w d")


def mean_over_frames(features: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over time (B, 1, C) of (B, T, C), of the frames where ``mask`` (B, T) is True."""
    if mask is None:
        return features.mean(1, keepdim=True)
    kept = features.where(mask[:, :, None], 0)  # not a product: padding may be NaN
    return kept.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]  # a clip may be masked as a whole


class DenseAudioTower(nn.Module):
    """Convolutions without padding in time, whose receptive field is one window (``small``).

    Args:
        config: of the expert.

    Shape:
        (B, L, F) → (B, W, D).
    """

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__()
        self.mel = config.audio == "mel"
        self.period = config.steps_per_frame.as_integer_ratio()
        self.network = small_mel_network(config) if self.mel else small_feature_network(config)

    def forward(self, x: Tensor, windows: int, stride: int = 1) -> Tensor:
        """Encode every ``stride``-th of the windows that begin with successive frames."""
        # features of an encoder are channels: as one tall kernel over them, a training batch asks for 140 GB
        dense = self.network(rearrange(x, "b l f -> b 1 f l" if self.mel else "b l f -> b f 1 l"))
        return take_steps(rearrange(dense, "b d 1 l -> b l d"), windows, self.period)[:, ::stride]


def small_mel_network(config: UniSyncConfig) -> nn.Sequential:
    """ε3 and ε4: (B, 1, 80, L) → (B, D, 1, L - 15).

    Unpadded in time, six kernels of 3 steps and one of 4 span the 16 steps of a window.
    """
    time_unpadded = (1, 0)
    # strides in frequency only, 80 → 5 bins: windows begin at any step, 3.2 to a frame
    return nn.Sequential(
        ConvBlock(1, 32, 3, (2, 1), time_unpadded),
        ConvBlock(32, 64, 3, (2, 1), time_unpadded),
        ConvBlock(64, 64, 3, 1, time_unpadded, residual=True),
        ConvBlock(64, 128, 3, (2, 1), time_unpadded),
        ConvBlock(128, 128, 3, 1, time_unpadded, residual=True),
        ConvBlock(128, 256, 3, (2, 1), time_unpadded),
        nn.Dropout(0.3),
        ConvBlock(256, 384, (5, 4), 1, 0),
        nn.Dropout(0.3),
        nn.Conv2d(384, config.embedding, 1, bias=False),
        nn.BatchNorm2d(config.embedding),
    )


def small_feature_network(config: UniSyncConfig) -> nn.Sequential:
    """ε3 and ε4: (B, F, 1, L) → (B, D, 1, L - 9).

    A pointwise layer reduces the features; three kernels of 4 steps then span the 10 steps of a window.
    """
    return nn.Sequential(
        ConvBlock(config.audio_features, 320, 1, 1, 0),
        nn.Dropout(0.3),
        ConvBlock(320, 320, (1, 4), 1, 0),
        ConvBlock(320, 320, (1, 4), 1, 0),
        ConvBlock(320, 384, (1, 4), 1, 0),
        nn.Dropout(0.3),
        nn.Conv2d(384, config.embedding, 1, bias=False),
        nn.BatchNorm2d(config.embedding),
    )
