"""What is drawn for a step of training, on its way to the device.

Axes: N segments or pairs of a batch, L frames of a segment, W = L - 4 windows of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor

from unisync_loss.config import WINDOW_FRAMES

Kind = TypeVar("Kind", bound="Drawn")


@dataclass(frozen=True)
class Drawn:
    """Something drawn for a step: tensors, dictionaries of tensors, plain values."""

    def to(self: Kind, device: torch.device) -> Kind:
        """The same on a device; copied while the host goes on, where it is a GPU."""

        def move(value: object) -> object:
            if isinstance(value, dict):
                return {name: move(part) for name, part in value.items()}
            if not isinstance(value, Tensor) or device.type == "cpu":
                return value
            return value.pin_memory().to(device, non_blocking=True)

        return replace(self, **{field.name: move(getattr(self, field.name)) for field in fields(self)})

    @property
    def windows(self) -> int:
        """Windows, or views, that are looked at."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, those of dictionaries too."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        flat = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return flat | {
            name: part for value in values.values() if isinstance(value, dict) for name, part in value.items()
        }


@dataclass(frozen=True)
class Views(Drawn):
    """Whole faces (N, 3, 96, 96) in [0, 1] and their poses (N, 2, 3)."""

    views: Tensor
    poses: Tensor

    @property
    def windows(self) -> int:
        """N."""
        return len(self.views)


@dataclass(frozen=True)
class PairBatch(Drawn):
    """N random pairs.

    Attributes:
        seen: arrays of the five frames by name, see :class:`Batch`.
        audio: features of one window.
        kind: (N,) see :mod:`unisync_loss.training.data.pairs`.
        silent: (N,) neither the window seen nor the one heard has a voice in it.
    """

    seen: dict[str, Tensor]
    audio: Tensor
    kind: Tensor
    silent: Tensor

    @property
    def windows(self) -> int:
        """N."""
        return len(self.kind)


@dataclass(frozen=True)
class Batch(Drawn):
    """Segments of clips.

    Attributes:
        seen: arrays of the frames by name, (N, L, …). For small experts on rgb ``cuts`` (N, L, 80, 80, 3) uint8 mouth
            cuts and ``motion`` (N, L, 52, 2), displacement of the mouth points from the clip's median in template
            coordinates; for large ones ``crops`` (N, L, 96, 96, 3) uint8; for others ``series`` (N, L, 2, E) of
            :mod:`unisync_loss.training.data.face_features`, and ``rest`` (N, 1, 2, E), its mean over the clip.
        audio: features of the same time as the expert takes them: mel (N, 80, M), M = floor(3.2 (L - 5)) + 16, or
            HuBERT (N, 2 L, F).
        clip: (N,) which clip.
        speaker: (N,) whose voice.
        start: (N,) first frame, fractional where the tempo is not 1.
        tempo: (N,) frames of the clip per frame of the segment.
        silent: (N, W) windows without a voice.
        length: L.
    """

    seen: dict[str, Tensor]
    audio: Tensor
    clip: Tensor
    speaker: Tensor
    start: Tensor
    tempo: Tensor
    silent: Tensor
    length: int

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
