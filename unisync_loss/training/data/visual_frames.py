"""Visual data of a batch as read from the clip cache, and the expert inputs made of it.

Axes: N segments, L frames per segment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import torch
from einops import rearrange
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.training.data.augment import (
    augment_camera,
    augment_crops,
    augment_face_features,
    augment_mouths,
    augment_points_crop,
    centre_mouths,
    mirror_motion,
    random_mask,
)
from unisync_loss.training.data.face_features import visual_of_features

Kind = TypeVar("Kind", bound="TensorData")


@dataclass(frozen=True)
class TensorData:
    """A dataclass of tensors, further :class:`TensorData`, and plain values."""

    def to(self: Kind, device: torch.device) -> Kind:
        """Copy to a device, asynchronously from pinned memory where it is a GPU."""

        def move(value: object) -> object:
            if isinstance(value, TensorData):
                return value.to(device)
            if not isinstance(value, Tensor) or device.type == "cpu":
                return value
            return value.pin_memory().to(device, non_blocking=True)

        return replace(self, **{field.name: move(getattr(self, field.name)) for field in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by field name, those of nested data included."""
        flat: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, TensorData):
                flat |= value.tensors()
            elif isinstance(value, Tensor):
                flat[field.name] = value
        return flat


class VisualInputs(NamedTuple):
    """What a batch gives to the visual tower.

    Attributes:
        frames: (N, L, …) as the expert's representation defines it; mouth crops for small experts on rgb and parsing.
            (N, L + 1, …) where small experts subtract the clip's mean, which is the last frame.
        motion: (N, L, 52, 2) displacement of the mouth points in ``frames``, for mouth crops on rgb only.
    """

    frames: Tensor
    motion: Tensor | None = None


class VisualFrames(TensorData, ABC):
    """Frames of N segments."""

    @abstractmethod
    def inputs(self, config: UniSyncConfig, *, augmented: bool) -> VisualInputs:
        """Make the inputs of an expert, with or without augmentation."""


@dataclass(frozen=True)
class MouthFrames(VisualFrames):
    """Mouth crops, for small experts on rgb.

    Attributes:
        cuts: (N, L, 80, 80, 3) uint8.
        motion: (N, L, 52, 2) displacement of the mouth points from the clip's median in template coordinates.
    """

    cuts: Tensor
    motion: Tensor

    def inputs(self, config: UniSyncConfig, *, augmented: bool) -> VisualInputs:
        """Mouths (N, L, 3, 64, 64) in [0, 1] and their motion, mirrored alike."""
        pixels, motion = rearrange(self.cuts, "n l h w c -> (n l) c h w").float() / 255, self.motion
        if augmented:
            mirrored = random_mask(len(motion), 0.5)  # one draw for pixels and motion, which must agree
            pixels, motion = augment_mouths(pixels, mirrored), mirror_motion(motion, mirrored)
        else:
            pixels = centre_mouths(pixels)
        return VisualInputs(rearrange(pixels, "(n l) c h w -> n l c h w", n=len(motion)), motion)


@dataclass(frozen=True)
class FaceCrops(VisualFrames):
    """Whole face crops, for the ``paper`` architecture on rgb.

    Attributes:
        crops: (N, L, 96, 96, 3) uint8.
    """

    crops: Tensor

    def inputs(self, config: UniSyncConfig, *, augmented: bool) -> VisualInputs:
        """Crops (N, L, 3, 96, 96) in [0, 1]."""
        length = self.crops.shape[1]
        frames = rearrange(self.crops, "n l h w c -> (n l) c h w").float() / 255
        if augmented:
            frames = augment_camera(augment_crops(frames, length), length)
        return VisualInputs(rearrange(frames, "(n l) c h w -> n l c h w", l=length))


@dataclass(frozen=True)
class FaceFeatures(VisualFrames):
    """Landmarks, coefficients, or the points from which parsing maps are painted.

    Attributes:
        per_frame: (N, L, V, E) of :mod:`unisync_loss.training.data.face_features`; V = 2 views, the second mirrored;
            V = 1 for stored coefficients of any face model, whose mirror image is unknown.
        clip_mean: (N, 1, V, E) mean over the clip.
    """

    per_frame: Tensor
    clip_mean: Tensor

    def inputs(self, config: UniSyncConfig, *, augmented: bool) -> VisualInputs:
        """Landmarks, coefficients or maps; augmented ones of small experts have the clip's mean as last frame."""
        if not augmented:
            return VisualInputs(visual_of_features(config, self.per_frame[:, :, 0]))
        values = self.per_frame
        if config.architecture == "small":
            # the mean is augmented like the frames that it is subtracted from
            values = torch.cat([values, self.clip_mean], dim=1)
        changed = augment_face_features(
            values, self.clip_mean, random_mask(len(values), 0.5 if values.shape[2] == 2 else 0.0)
        )
        return VisualInputs(visual_of_features(config, changed, augment_points_crop))


@dataclass(frozen=True)
class ParsingMaps(VisualFrames):
    """Stored parsing maps, or mouths cut out of them for small experts.

    Attributes:
        maps: (N, L, 6, H, W) uint8, probabilities times 255.
        clip_mean: (N, 1, 6, H, W) uint8, mean over the clip.
    """

    maps: Tensor
    clip_mean: Tensor

    def inputs(self, config: UniSyncConfig, *, augmented: bool) -> VisualInputs:
        """Maps (N, L, 6, H, W); augmented ones, in other crops, of small experts have the clip's mean as last frame."""
        maps = self.maps
        if augmented and config.architecture == "small":
            maps = torch.cat([maps, self.clip_mean], dim=1)
        frames = rearrange(maps, "n l g h w -> (n l) g h w").float() / 255
        if augmented:
            frames = augment_crops(frames, maps.shape[1])
        return VisualInputs(rearrange(frames, "(n l) g h w -> n l g h w", l=maps.shape[1]))
