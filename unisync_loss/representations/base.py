"""The contracts of a representation: what goes in, what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from unisync_loss.config import UniSyncConfig
from unisync_loss.utils.tensors import describe


class VisualInput(nn.Module, ABC):
    """Checks a video representation and brings it into the one form that the networks take.

    Shape:
        (B, T, …) as the representation defines it → (B, T, C, H, W) pictures, or (B, T, E) vectors.
    """

    #: the shape that users must give, in words
    expected: str

    def __init__(self, config: UniSyncConfig) -> None:
        """Keep the config."""
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """Check and convert; raises ValueError with what was expected and what came."""

    def refuse(self, video: Tensor) -> ValueError:
        """Build the error for an input that breaks the contract."""
        return ValueError(f"video: expected {self.config.visual} as {self.expected}, got {describe(video)}")


class AudioInput(nn.Module, ABC):
    """Checks audio and brings it into features.

    Shape:
        waveform (B, S), or the features as the representation defines them → (B, L, F), L steps of time.
    """

    #: the feature shape that users may give instead of a waveform, in words
    expected: str
    #: frames on either side of a stretch of sound that are heard with it, where it is heard stretch by stretch
    margin: int

    def __init__(self, config: UniSyncConfig) -> None:
        """Keep the config."""
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, audio: Tensor) -> Tensor:
        """Check and convert; raises ValueError with what was expected and what came."""

    def fit(self, features: Tensor, steps: int) -> Tensor:
        """Bring features (B, L, F) that end early by nature to the steps that the windows need; others stay."""
        return features

    def refuse(self, audio: Tensor) -> ValueError:
        """Build the error for an input that breaks the contract."""
        return ValueError(
            f"audio: expected a waveform (B, S) at {16_000} Hz or {self.config.audio} features as {self.expected}, "
            f"in floating point, got {describe(audio)}"
        )
