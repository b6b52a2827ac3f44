"""Base classes of the representations: which inputs are accepted and which form the networks receive."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from unisync_loss.config import SAMPLE_RATE, UniSyncConfig
from unisync_loss.utils.tensors import describe


class VisualInput(nn.Module, ABC):
    """Base class of visual representations: checks a video and converts it to the form that the networks take.

    Args:
        config: of the expert.

    Attributes:
        is_image: whether the converted video has the axes (B, T, C, H, W); (B, T, E) otherwise.
        value_range: lowest and highest value of a floating-point video; None where there are no bounds.
        needs_mesh: whether it is computed from a face mesh where there is only video; from the pixels otherwise.

    Shape:
        (B, T, …) as the representation defines it → (B, T, C, H, W) images, or (B, T, E) vectors.
    """

    is_image = False
    value_range: tuple[float, float] | None = None
    needs_mesh = True

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__()
        self.config = config

    @property
    @abstractmethod
    def expected(self) -> str:
        """The shape and type of number that users must give, in words."""

    @abstractmethod
    def accepts(self, video: Tensor) -> bool:
        """Whether shape and type of number are as expected."""

    def forward(self, video: Tensor) -> Tensor:
        """Check and convert; see the class for shapes.

        Raises:
            ValueError: for another shape or type of number than :attr:`expected`.
        """
        self.check(video)
        return self.convert(video)

    def check(self, video: Tensor) -> None:
        """Check shape and type of number.

        Raises:
            ValueError: for another than :attr:`expected`.
        """
        if not isinstance(video, Tensor) or not self.accepts(video):
            raise self.refuse(video)

    def convert(self, video: Tensor) -> Tensor:
        """Convert a checked video, differentiably where it is in floating point."""
        return video

    def refuse(self, video: Tensor, hint: str = "") -> ValueError:
        """Build the error for an input that is not as expected."""
        return ValueError(f"video: expected {self.config.visual} as {self.expected}, got {describe(video)}{hint}")


class AudioInput(nn.Module, ABC):
    """Base class of audio representations: checks a waveform or features and converts them to features.

    Args:
        config: of the expert.

    Shape:
        waveform (B, S), or features as the representation defines them → (B, L, F), L steps of time.
    """

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__()
        self.config = config

    @property
    @abstractmethod
    def context(self) -> int:
        """Samples on either side that change the features of a segment, where long audio is encoded in segments.

        A whole number of audio steps.
        """

    @property
    @abstractmethod
    def expected(self) -> str:
        """The shape of the features that users may give instead of a waveform, in words."""

    @abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """Compute features (B, L, F) of a waveform (B, S)."""

    @abstractmethod
    def convert(self, features: Tensor) -> Tensor:
        """Check features of three axes and convert them to (B, L, F)."""

    def forward(self, audio: Tensor) -> Tensor:
        """Check and convert; see the class for shapes.

        Raises:
            ValueError: for neither a waveform nor features as :attr:`expected`.
        """
        if not isinstance(audio, Tensor) or not audio.is_floating_point() or audio.ndim not in (2, 3):
            raise self.refuse(audio)
        return self.encode(audio) if audio.ndim == 2 else self.convert(audio)

    def fit(self, features: Tensor, steps: int) -> Tensor:
        """Extend features (B, L, F) that end one step early by nature to the steps that the windows need."""
        return features

    def refuse(self, audio: Tensor, hint: str = "") -> ValueError:
        """Build the error for an input that is not as expected."""
        return ValueError(
            f"audio: expected a waveform (B, S) at {SAMPLE_RATE} Hz or {self.config.audio} features as "
            f"{self.expected}, in floating point, got {describe(audio)}{hint}"
        )
