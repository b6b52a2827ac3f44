"""The stages of training a ``small`` mel-rgb expert: where the mouth is, what it does, what it says, then all at once.

A visual network that starts from sync alone stays on the plateau for a long time; one that already knows the shape of
a mouth leaves it at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from unisync_loss.augment import augment_mouths, augment_views, augment_voice
from unisync_loss.config import UniSyncConfig
from unisync_loss.expert import UniSyncExpert
from unisync_loss.faces import MOUTH_POINTS
from unisync_loss.objective import all_pairs, all_pairs_margin_loss, contrastive_loss, pair_kinds
from unisync_loss.sampling import ClipData, to_pixels
from unisync_loss.towers import FRAME_FEATURES, DenseAudioTower, DenseVisualTower, FrameStem

POINT_SCALE = 10.0  # mouth points in tenths of a template unit: errors of order one
LARGEST_SCALE = 30.0  # of the contrastive softmax


class Learner(nn.Module):
    """The expert and what is thrown away after training."""

    def __init__(self, config: UniSyncConfig) -> None:
        """Build expert, mouth-point head and the softmax scale."""
        super().__init__()
        self.expert = UniSyncExpert(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.points = nn.Linear(FRAME_FEATURES, 2 * len(MOUTH_POINTS))
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    @property
    def visual(self) -> DenseVisualTower:
        """The visual tower."""
        assert isinstance(self.expert.visual_tower, DenseVisualTower)
        return self.expert.visual_tower

    @property
    def audio(self) -> DenseAudioTower:
        """The audio tower."""
        assert isinstance(self.expert.audio_tower, DenseAudioTower)
        return self.expert.audio_tower

    @property
    def stem(self) -> FrameStem:
        """The network that looks at a frame."""
        assert isinstance(self.visual.stem, FrameStem)
        return self.visual.stem


@dataclass(frozen=True)
class BatchSize:
    """Size of a sync batch: clips, segments of each, frames of a segment."""

    clips: int = 32
    segments: int = 2
    frames: int = 13


class Stage(Protocol):
    """One objective."""

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Modules that this stage trains; all others stay as they are, in eval mode."""
        ...

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Named terms of one step; ``loss`` is the one to minimise."""
        ...


@dataclass(frozen=True)
class AlignStage:
    """The aligner learns the pose of the face in any crop."""

    batch: int = 128

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train the aligner."""
        assert learner.visual.aligner is not None
        return [learner.visual.aligner]

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Distance of the mouth cut's corners from where they should be, in template units."""
        assert learner.visual.aligner is not None
        views, poses = augment_views(*data.draw_views(generator, self.batch))
        first, second = (pose_error(look, poses) for look in learner.visual.aligner.looks(views))
        return {"loss": first.mean() + second.mean(), "first_look": first.median(), "second_look": second.median()}


def pose_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean distance of corners and centre of the mouth cut, in units of the template.

    Args:
        predicted: (N, 2, 3).
        true: (N, 2, 3).

    Returns:
        (N,).
    """
    corners = torch.tensor([[-0.5, 0.38, 1], [0.5, 0.38, 1], [-0.5, 1.38, 1], [0.5, 1.38, 1], [0.0, 0.88, 1]])
    # distances in the crop are divided by the face's size there, so that loose crops count as much as tight ones
    size = torch.linalg.det(true[:, :, :2]).abs().sqrt()[:, None].clamp(min=0.05)
    difference = torch.einsum("nij,kj->nki", predicted - true, corners)
    return (difference.norm(dim=2) / size).mean(1)


@dataclass(frozen=True)
class GeometryStage:
    """The frame network learns the shape of the mouth: lip and chin points."""

    batch: BatchSize

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train the frame network and its point head."""
        return [learner.stem, learner.points]

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Distance of the mouth's shape, its place and size taken out, which augmentation changes."""
        batch = data.draw(generator, self.batch.clips * self.batch.segments, 1, self.batch.frames)
        mouths = augment_mouths(to_pixels(batch.cuts), self.batch.frames)
        predicted = rearrange(learner.points(learner.stem(mouths)), "n (p d) -> n p d", d=2)
        error = (predicted - POINT_SCALE * mouth_shape(rearrange(batch.points, "n l p d -> (n l) p d"))).abs()
        # left and right may be mirrored by augmentation: the shape is compared up to that
        return {"loss": error.mean(), "inner_lips": error[:, 20:40, 1].mean()}


def mouth_shape(points: Tensor) -> Tensor:
    """Mouth points without what mirroring and small crops change: centred, x as distance from the middle.

    Args:
        points: (N, 52, 2).

    Returns:
        (N, 52, 2).
    """
    centred = points - points[:, :40].mean(1, keepdim=True)
    return torch.stack([centred[..., 0].abs(), centred[..., 1]], dim=-1)


@dataclass(frozen=True)
class SyncStage:
    """Contrast of all pairs, from the frozen frame network or with it.

    Attributes:
        batch: clips, segments, frames.
        joint: train the frame network, too.
        margin_weight: of eq. 1 beside the contrastive loss.
        points_weight: of the mouth shape, which keeps the frame network honest while all is trained.
    """

    batch: BatchSize
    joint: bool
    margin_weight: float = 1.0
    points_weight: float = 0.1

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train audio network and visual trunk, and the frame network if joint."""
        modules: list[nn.Module] = [learner.visual.trunk, learner.audio]
        return [*modules, learner.stem, learner.points] if self.joint else modules

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Contrastive loss plus eq. 1 over all pairs of the batch."""
        size = self.batch
        batch = data.draw(generator, size.clips, size.segments, size.frames)
        mouths = augment_mouths(to_pixels(batch.cuts), size.frames).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(self.joint):
            features = learner.stem(mouths)
        visual = learner.visual.encode_frames(features, len(batch.cuts))
        audio = learner.audio(rearrange(augment_voice(batch.mel), "n f m -> n m f"), window_steps(size.frames))
        probability = all_pairs(rearrange(audio, "n w d -> (n w) d"), rearrange(visual, "n w d -> (n w) d"))
        kinds = pair_kinds(*batch.window_labels())
        config = learner.expert.config
        contrast = contrastive_loss(probability, kinds, learner.log_scale.exp().clamp(max=LARGEST_SCALE))
        margin = all_pairs_margin_loss(probability, kinds, config.margin_same, config.margin_cross)
        total = contrast + self.margin_weight * margin
        if self.joint:
            predicted = rearrange(learner.points(features), "n (p d) -> n p d", d=2)
            truth = POINT_SCALE * mouth_shape(rearrange(batch.points, "n l p d -> (n l) p d"))
            total = total + self.points_weight * (predicted - truth).abs().mean()
        return {
            "loss": total,
            "contrast": contrast,
            "margin": margin,
            "p_positive": probability.diagonal().mean(),
            "p_same": probability[kinds.same].mean(),
            "p_cross": probability[kinds.cross].mean(),
        }


def window_steps(frames: int) -> list[int]:
    """First mel step of every window of a segment: floor(3.2 f)."""
    return [start * 16 // 5 for start in range(frames - 4)]


def parameters_of(stage: Stage, learner: Learner) -> Iterator[nn.Parameter]:
    """Parameters that a stage trains."""
    for module in stage.trained(learner):
        yield from module.parameters()
    if isinstance(stage, SyncStage):
        yield learner.log_scale
