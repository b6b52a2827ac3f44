"""The stages of training a ``small`` expert on rgb: where the mouth is, what it does, what it says, then all at once.

A visual network that starts from sync alone stays on the plateau for a long time. Here one network learns to read the
mouth's motion (how far each lip point is from where it rests in the clip) from a picture, others learn sync from the
measured motion, and joined they know sync from pictures without having been taught; then all are trained together.
Experts on landmarks, coefficients and parsing maps have nothing to see first: one stage of contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.augment import (
    augment_crop,
    augment_features,
    augment_motion,
    augment_mouths,
    augment_series,
    augment_views,
    augment_voice,
    chance,
    mirror_motion,
)
from unisync_loss.config import UniSyncConfig
from unisync_loss.expert import UniSyncExpert
from unisync_loss.faces import MOUTH_POINTS
from unisync_loss.objective import all_pairs, all_pairs_margin_loss, contrastive_loss, pair_kinds
from unisync_loss.sampling import Batch, ClipData, to_pixels
from unisync_loss.series import visual_of_series
from unisync_loss.towers import FRAME_FEATURES, DenseVisualTower, FrameStem

MOTION_FEATURES = 2 * len(MOUTH_POINTS)  # the first of a frame's features are the mouth's motion
MOTION_SCALE = 36.0  # from template units to deviation 1
HIDDEN_FEATURES = 0.15  # share of a frame's features hidden from the trunk in the last stage
LARGEST_SCALE = 30.0  # of the contrastive softmax


class Learner(nn.Module):
    """The expert and what is thrown away after training."""

    def __init__(self, config: UniSyncConfig) -> None:
        """Build the expert and the softmax scale."""
        super().__init__()
        self.expert = UniSyncExpert(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.visual == "rgb":
            first = self.visual.trunk[0]
            assert isinstance(first, nn.Conv1d)
            with torch.no_grad():  # the trunk meets features other than motion in the last stage: it starts without
                first.weight[:, MOTION_FEATURES:] = 0
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    @property
    def visual(self) -> DenseVisualTower:
        """The visual tower."""
        assert isinstance(self.expert.visual_tower, DenseVisualTower)
        return self.expert.visual_tower

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
    """The frame network learns to read the mouth's motion from one picture."""

    batch: BatchSize

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train the frame network."""
        return [learner.stem]

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Distance from the measured motion, and the share of it that is left unexplained."""
        batch = data.draw(generator, self.batch.clips * self.batch.segments, 1, self.batch.frames)
        features, motion = see_mouths(learner, batch)
        error = features[:, :MOTION_FEATURES] - motion
        return {"loss": error.abs().mean(), "unexplained": error.square().mean() / motion.square().mean()}


@dataclass(frozen=True)
class SyncStage:
    """Audio network and visual trunk learn sync from the measured motion: no picture is looked at, which is cheap."""

    batch: BatchSize

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train audio network and visual trunk."""
        return [learner.visual.trunk, learner.expert.audio_tower]

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`."""
        batch = data.draw(generator, self.batch.clips, self.batch.segments, self.batch.frames)
        motion = mirror_motion(augment_motion(batch.seen["motion"]), chance(len(batch.clip), 0.5))
        visual = learner.visual.encode_frames(motion_features(motion), len(batch.clip))
        return sync_terms(learner, batch, visual)


@dataclass(frozen=True)
class JointStage:
    """Everything but the aligner learns sync from pictures.

    Attributes:
        batch: clips, segments, frames.
        motion_weight: of the geometry loss, which keeps the frame network honest.
    """

    batch: BatchSize
    motion_weight: float = 0.2

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train all networks but the aligner."""
        return [learner.stem, learner.visual.trunk, learner.expert.audio_tower]

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`, and the error of the motion."""
        batch = data.draw(generator, self.batch.clips, self.batch.segments, self.batch.frames)
        features, motion = see_mouths(learner, batch)
        hidden = hide_features(features, len(batch.clip))
        terms = sync_terms(learner, batch, learner.visual.encode_frames(hidden, len(batch.clip)))
        error = (features[:, :MOTION_FEATURES] - motion).abs().mean()
        return terms | {"loss": terms["loss"] + self.motion_weight * error, "motion_error": error}


@dataclass(frozen=True)
class ContrastStage:
    """Landmarks, coefficients or parsing maps and the voice learn sync, all at once."""

    batch: BatchSize

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train both towers."""
        return [learner.expert.visual_tower, learner.expert.audio_tower]

    def loss(self, learner: Learner, data: ClipData, generator: np.random.Generator) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`."""
        batch = data.draw(generator, self.batch.clips, self.batch.segments, self.batch.frames)
        series = augment_series(batch.seen["series"], batch.seen["rest"], chance(len(batch.clip), 0.5))
        if data.config.visual == "parsing":
            rings = augment_crop(rearrange(series, "n l (p d) -> n l p d", d=2))
            series = rearrange(rings, "n l p d -> n l (p d)")
        visual = learner.expert.encode_visual(visual_of_series(data.config, series))
        return sync_terms(learner, batch, visual)


def hide_features(features: Tensor, segments: int) -> Tensor:
    """Silence some features (N * L, 192) all through a segment: no single one is to be trusted."""
    series = rearrange(features, "(n l) c -> n c l", n=segments)
    return rearrange(F.dropout1d(series, HIDDEN_FEATURES), "n c l -> (n l) c")


def see_mouths(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features of augmented pictures (N * L, 192), and the motion that is to be read there (N * L, 104)."""
    mirrored = chance(len(batch.clip), 0.5)
    mouths = augment_mouths(to_pixels(batch.seen["cuts"]), mirrored).contiguous(memory_format=torch.channels_last)
    motion = motion_features(mirror_motion(batch.seen["motion"], mirrored))
    return learner.stem(mouths), motion[:, :MOTION_FEATURES]


def motion_features(motion: Tensor) -> Tensor:
    """Motion (N, L, 52, 2) as features of frames (N * L, 192): what is not motion is 0."""
    features = MOTION_SCALE * rearrange(motion, "n l p d -> (n l) (p d)")
    return F.pad(features, (0, FRAME_FEATURES - MOTION_FEATURES))


def sync_terms(learner: Learner, batch: Batch, visual: Tensor) -> dict[str, Tensor]:
    """Contrast of all pairs plus eq. 1.

    Args:
        learner: the networks.
        batch: of N segments of W windows.
        visual: (N, W, D) embeddings of its frames.

    Returns:
        ``loss`` and what it is made of.
    """
    augmented = augment_voice(batch.audio) if learner.expert.config.audio == "mel" else augment_features(batch.audio)
    audio = learner.expert.encode_audio(augmented, batch.length)
    probability = all_pairs(rearrange(audio, "n w d -> (n w) d"), rearrange(visual, "n w d -> (n w) d"))
    kinds = pair_kinds(*batch.window_labels())
    config = learner.expert.config
    contrast = contrastive_loss(probability, kinds, learner.log_scale.exp().clamp(max=LARGEST_SCALE))
    margin = all_pairs_margin_loss(probability, kinds, config.margin_same, config.margin_cross)
    return {
        "loss": contrast + margin,
        "contrast": contrast,
        "margin": margin,
        "p_positive": probability.diagonal().mean(),
        "p_same": probability[kinds.same].mean(),
        "p_cross": probability[kinds.cross].mean(),
    }


def parameters_of(stage: Stage, learner: Learner) -> Iterator[nn.Parameter]:
    """Parameters that a stage trains."""
    for module in stage.trained(learner):
        yield from module.parameters()
    if isinstance(stage, SyncStage | JointStage | ContrastStage):
        yield learner.log_scale
