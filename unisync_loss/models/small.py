"""The networks: stems (ε1, ε3) and trunks (ε2, ε4) of both architectures.

``paper``: every window is stacked and goes through a deep 2-D tower (peers: Wav2Lip's), 16.3 M parameters.
``small``: the visual stem sees each frame once, the trunks slide over time without padding, so that a clip of T frames
costs T frames, not 5·T. On RGB the embedding of a window depends on that window alone. Points, coefficients and maps
tell more of who speaks than of what is said: each of their frames is taken less the mean of all frames given.
"""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from unisync_loss.config import UniSyncConfig
from unisync_loss.models.layers import ConvBlock, residuals
from unisync_loss.models.mouth_aligner import PATCH_SIZE, Aligner
from unisync_loss.representations.parsing import mouth_of_maps

FRAME_FEATURES = 192  # of the small visual stem
MOUTH_SIZE = 48  # pixels of the mouth cut out of a parsing map: it has outlines and no texture


class FrameStem(nn.Module):
    """Small ε1 for pictures: the mouth of each frame (N, C, side, side) → (N, 192)."""

    def __init__(self, channels: int, side: int = PATCH_SIZE) -> None:
        """Build the network for pictures of a side that is a multiple of 16."""
        super().__init__()
        self.layers = nn.Sequential(
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
        # each picture by itself is made of mean 0 and deviation 1: light and camera are not speech
        mean = mouths.mean((1, 2, 3), keepdim=True)
        deviation = mouths.var((1, 2, 3), keepdim=True).add(1e-4).sqrt()
        features: Tensor = self.out(self.layers((mouths - mean) / deviation).flatten(1))
        return features


class FrameTrunk(nn.Sequential):
    """Small ε2, which slides over time: features of frames (B, 192, T) → (B, D, T - 4)."""

    def __init__(self, config: UniSyncConfig) -> None:
        """Build the network."""
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
            nn.BatchNorm1d(config.embedding),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Encode; see the class. A method of our own: torch.compile passes over what is in torch itself."""
        encoded: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return encoded


class DenseVisualTower(nn.Module):
    """Encodes each frame once, then slides over time (``small``)."""

    def __init__(self, config: UniSyncConfig) -> None:
        """Build stem and trunk."""
        super().__init__()
        self.aligner = Aligner() if config.visual == "rgb" else None
        self.maps = config.visual == "parsing"
        self.stem: nn.Module
        if config.visual == "rgb":
            self.stem = FrameStem(config.visual_features)
        elif self.maps:
            self.stem = FrameStem(config.visual_features, MOUTH_SIZE)
        else:
            self.stem = nn.Sequential(nn.Linear(config.visual_features, FRAME_FEATURES), nn.BatchNorm1d(FRAME_FEATURES))
        self.trunk = FrameTrunk(config)

    def forward(self, x: Tensor, starts: Sequence[int], mask: Tensor | None = None) -> Tensor:
        """Pictures (B, T, C, H, W) or vectors (B, T, E) → (B, W, D) for windows at ``starts``.

        Frames where ``mask`` (B, T) is False are no part of the mean face.
        """
        features = self.look(x)
        if self.aligner is None:
            features = features - mean_of_frames(features, mask)
        return self.encode_frames(features)[:, list(starts)]

    def look(self, x: Tensor) -> Tensor:
        """Pictures (B, T, C, H, W) or vectors (B, T, E) → features of each frame by itself (B, T, 192)."""
        frames = rearrange(x, "b t ... -> (b t) ...")
        if self.aligner is not None:
            frames = self.aligner.mouths(frames)
        elif self.maps:
            frames = mouth_of_maps(frames, MOUTH_SIZE)
        return self.look_at_mouths(rearrange(frames, "(b t) ... -> b t ...", b=x.shape[0]))

    def look_at_mouths(self, mouths: Tensor) -> Tensor:
        """Mouths as :meth:`look` cuts them, or vectors (B, T, ...) → features of each frame by itself (B, T, 192)."""
        features = self.stem(rearrange(mouths, "b t ... -> (b t) ..."))
        return rearrange(features, "(b t) c -> b t c", b=mouths.shape[0])

    def encode_frames(self, features: Tensor) -> Tensor:
        """Frame features (B, T, 192) → (B, T - 4, D), every window."""
        return rearrange(self.trunk(rearrange(features, "b t c -> b c t")), "b d w -> b w d")


def mean_of_frames(features: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over time (B, 1, C) of (B, T, C), of the frames where ``mask`` (B, T) is True."""
    if mask is None:
        return features.mean(1, keepdim=True)
    shown = features.where(mask[:, :, None], 0)  # what pads a batch may be anything, NaN too
    return shown.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]


class DenseAudioTower(nn.Module):
    """Convolutions without padding in time, whose field is one window (``small``)."""

    def __init__(self, config: UniSyncConfig) -> None:
        """Build the network of the config's audio representation."""
        super().__init__()
        self.mel = config.audio == "mel"
        self.network = small_mel_network(config) if self.mel else small_hubert_network(config)

    def forward(self, x: Tensor, starts: Sequence[int]) -> Tensor:
        """(B, L, F) → (B, W, D) for windows at ``starts``."""
        dense = self.network(rearrange(x, "b l f -> b 1 f l" if self.mel else "b l f -> b f 1 l"))
        return rearrange(dense, "b d 1 l -> b l d")[:, list(starts)]


def small_mel_network(config: UniSyncConfig) -> nn.Sequential:
    """ε3 and ε4: (B, 1, 80, L) → (B, D, 1, L - 15); six times two steps and one of three are lost."""
    time_unpadded = (1, 0)
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


def small_hubert_network(config: UniSyncConfig) -> nn.Sequential:
    """ε3 and ε4: (B, F, 1, L) → (B, D, 1, L - 9): the features are mixed first, then three times four steps of time."""
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
