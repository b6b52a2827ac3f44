"""Batches of training.

Axes: N segments, pairs or views of a batch, L frames of a segment, W = L - 4 windows of a segment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from unisync_loss.config import WINDOW_FRAMES, UniSyncConfig
from unisync_loss.training.data.pairs import POSITIVE
from unisync_loss.training.data.visual_frames import TensorData, VisualFrames, VisualInputs
from unisync_loss.training.losses import pair_kinds


class TrainingBatch(TensorData, ABC):
    """What one step of training is computed from."""

    @property
    @abstractmethod
    def windows(self) -> int:
        """Number of windows, or of views."""


@dataclass(frozen=True)
class AlignerBatch(TrainingBatch):
    """Whole faces and their poses, for the mouth aligner.

    Attributes:
        views: (N, 3, 96, 96) in [0, 1].
        poses: (N, 2, 3) affine maps from template coordinates to shares of the view's width and height.
    """

    views: Tensor
    poses: Tensor

    @property
    def windows(self) -> int:
        """N."""
        return len(self.views)


@dataclass(frozen=True)
class AudioVisualBatch(TrainingBatch, ABC):
    """Visual frames and audio features.

    Attributes:
        visual: frames of N segments, or of N windows.
        audio: features as the expert takes them: mel (N, 80, M), M = floor(3.2 (L - 5)) + 16, or those of an encoder,
            (N, 2 L, F).
    """

    visual: VisualFrames
    audio: Tensor

    @property
    @abstractmethod
    def frames(self) -> int:
        """L."""

    @abstractmethod
    def scored_pairs(self) -> tuple[Tensor, Tensor]:
        """Matches and mismatches among all pairs of V windows, (V, V) bool each; rows visual, columns audio."""

    def visual_inputs(self, config: UniSyncConfig, *, augmented: bool) -> VisualInputs:
        """Make the visual inputs of an expert, with or without augmentation."""
        return self.visual.inputs(config, augmented=augmented)


@dataclass(frozen=True)
class PairBatch(AudioVisualBatch):
    """N random pairs of a visual and an audio window.

    Attributes:
        kind: (N,) see :mod:`unisync_loss.training.data.pairs`.
        silent: (N,) neither window contains speech.
    """

    kind: Tensor
    silent: Tensor

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return WINDOW_FRAMES

    @property
    def windows(self) -> int:
        """N."""
        return len(self.kind)

    def scored_pairs(self) -> tuple[Tensor, Tensor]:
        """Only the drawn pairs, on the diagonal."""
        match = self.kind == POSITIVE
        return torch.diag(match), torch.diag(~match)


@dataclass(frozen=True)
class SegmentBatch(AudioVisualBatch):
    """N segments of clips; audio and visual frames are of the same time.

    Attributes:
        clip: (N,) index of the clip.
        speaker: (N,) index of the speaker.
        start: (N,) first frame, fractional where the tempo is not 1.
        tempo: (N,) frames of the clip per frame of the segment.
        silent: (N, W) windows without speech.
        length: L.
    """

    clip: Tensor
    speaker: Tensor
    start: Tensor
    tempo: Tensor
    silent: Tensor
    length: int

    @property
    def frames(self) -> int:
        """L."""
        return self.length

    @property
    def windows(self) -> int:
        """N * W."""
        return len(self.clip) * (self.length - WINDOW_FRAMES + 1)

    def window_labels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Clip, speaker and first frame of every window, each (N * W,)."""
        windows = self.windows // len(self.clip)
        time = self.start[:, None] + torch.arange(windows, device=self.start.device) * self.tempo[:, None]
        repeated = [
            rearrange(label[:, None].expand(-1, windows), "n w -> (n w)") for label in (self.clip, self.speaker)
        ]
        return repeated[0], repeated[1], rearrange(time, "n w -> (n w)")

    def scored_pairs(self) -> tuple[Tensor, Tensor]:
        """All pairs of windows but those one frame apart in a clip."""
        kinds = pair_kinds(*self.window_labels())
        return torch.eye(self.windows, dtype=torch.bool, device=self.clip.device), kinds.same | kinds.cross
