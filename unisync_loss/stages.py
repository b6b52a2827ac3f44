"""The stages of training a ``small`` expert on rgb: where the mouth is, what it does, what it says, then all at once.

A visual network that starts from sync alone stays on the plateau for a long time. Here one network learns to read the
mouth's motion (how far each lip point is from where it rests in the clip) from a picture, others learn sync from the
measured motion, and joined they know sync from pictures without having been taught; then all are trained together.
All other experts have one stage, :mod:`unisync_loss.pair_stages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.augment import (
    augment_features,
    augment_motion,
    augment_mouths,
    augment_views,
    augment_voice,
    centre_mouths,
    chance,
    mirror_motion,
)
from unisync_loss.batches import Batch, PairBatch, Views
from unisync_loss.config import UniSyncConfig
from unisync_loss.expert import UniSyncExpert
from unisync_loss.faces import MOUTH_POINTS
from unisync_loss.objective import all_pairs, all_pairs_margin_loss, contrastive_loss, pair_kinds
from unisync_loss.pairs import PairPlan
from unisync_loss.parallel import ALONE, World
from unisync_loss.sampling import ClipData, to_pixels
from unisync_loss.towers import FRAME_FEATURES, DenseVisualTower, FrameStem

MOTION_FEATURES = 2 * len(MOUTH_POINTS)  # the first of a frame's features are the mouth's motion
MOTION_SCALE = 36.0  # from template units to deviation 1
HIDDEN_FEATURES = 0.15  # share of a frame's features hidden from the trunk in the last stage
STRETCHED = 0.5  # share of clips drawn as if spoken faster or slower
LARGEST_SCALE = 30.0  # of the contrastive softmax

Kind = TypeVar("Kind", Batch, PairBatch, Views)


class Learner(nn.Module):
    """The expert and what is thrown away after training."""

    def __init__(self, config: UniSyncConfig) -> None:
        """Build the expert and the softmax scale."""
        super().__init__()
        self.expert = UniSyncExpert(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.finds_mouths:
            first = self.visual.trunk[0]
            assert isinstance(first, nn.Conv1d)
            with torch.no_grad():  # the trunk meets features other than motion in the last stage: it starts without
                first.weight[:, MOTION_FEATURES:] = 0
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.world = ALONE

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
    """A batch of all pairs.

    Attributes:
        clips: different clips.
        segments: of each.
        frames: of a segment.
        plan: weight of cross-speaker pairs among the negatives of eq. 1, and how near negatives of a clip may be.
        skip_silence: two silent windows are no negative: nobody could tell.
        augment: other faces, cameras, voices and rooms.
        shuffled: hear something else than what is seen: a self-test, nothing can be learnt.
    """

    clips: int = 32
    segments: int = 2
    frames: int = 13
    plan: PairPlan = field(default_factory=PairPlan)
    skip_silence: bool = True
    augment: bool = True
    shuffled: bool = False

    def draw(self, data: ClipData, generator: np.random.Generator, world: World) -> Batch:
        """Draw this process's part of the batch."""
        batch = data.draw(generator, self.clips, self.segments, self.frames, world, STRETCHED if self.augment else 0.0)
        if not self.shuffled:
            return batch
        return replace(batch, audio=batch.audio.roll(int(generator.integers(1, len(batch.audio))), 0))


class Stage(Protocol[Kind]):
    """One objective: what it draws, what it trains, what it minimises."""

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Modules that this stage trains; all others stay as they are, in eval mode."""
        ...

    def draw(self, data: ClipData, generator: np.random.Generator, world: World) -> Kind:
        """Draw this process's part of a batch."""
        ...

    def loss(self, learner: Learner, batch: Kind) -> dict[str, Tensor]:
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

    def draw(self, data: ClipData, generator: np.random.Generator, world: World = ALONE) -> Views:
        """Draw views of faces."""
        return data.draw_views(generator, self.batch, world)

    def loss(self, learner: Learner, batch: Views) -> dict[str, Tensor]:
        """Distance of the mouth cut's corners from where they should be, in template units."""
        assert learner.visual.aligner is not None
        with exactly(batch.views):
            views, poses = augment_views(batch.views, batch.poses)
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

    def draw(self, data: ClipData, generator: np.random.Generator, world: World = ALONE) -> Batch:
        """Draw a segment of each of many clips."""
        return data.draw(generator, self.batch.clips * self.batch.segments, 1, self.batch.frames, world)

    def loss(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Distance from the measured motion, and the share of it that is left unexplained."""
        features, motion = see_mouths(learner, batch)
        error = features[..., :MOTION_FEATURES] - motion
        return {"loss": error.abs().mean(), "unexplained": error.square().mean() / motion.square().mean()}


@dataclass(frozen=True)
class SyncStage:
    """Audio network and visual trunk learn sync from the measured motion: no picture is looked at, which is cheap."""

    batch: BatchSize
    contrasts: ClassVar[bool] = True

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train audio network and visual trunk."""
        return [learner.visual.trunk, learner.expert.audio_tower]

    def draw(self, data: ClipData, generator: np.random.Generator, world: World = ALONE) -> Batch:
        """Draw segments of clips."""
        return self.batch.draw(data, generator, world)

    def loss(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`."""
        with exactly(batch.audio):
            motion = mirror_motion(augment_motion(batch.seen["motion"]), chance(len(batch.clip), 0.5))
        return sync_terms(learner, batch, learner.visual.encode_frames(motion_features(motion)), self.batch)


@dataclass(frozen=True)
class JointStage:
    """Everything but the aligner learns sync from pictures.

    Attributes:
        batch: clips, segments, frames.
        motion_weight: of the geometry loss, which keeps the frame network honest.
    """

    batch: BatchSize
    motion_weight: float = 0.2
    contrasts: ClassVar[bool] = True

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train all networks but the aligner."""
        return [learner.stem, learner.visual.trunk, learner.expert.audio_tower]

    def draw(self, data: ClipData, generator: np.random.Generator, world: World = ALONE) -> Batch:
        """Draw segments of clips."""
        return self.batch.draw(data, generator, world)

    def loss(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`, and the error of the motion."""
        features, motion = see_mouths(learner, batch, augmented=self.batch.augment)
        trusted = hide_features(features) if self.batch.augment else features
        terms = sync_terms(learner, batch, learner.visual.encode_frames(trusted), self.batch)
        error = (features[..., :MOTION_FEATURES] - motion).abs().mean()
        return terms | {"loss": terms["loss"] + self.motion_weight * error, "motion_error": error}


def see_mouths(learner: Learner, batch: Batch | PairBatch, *, augmented: bool = True) -> tuple[Tensor, Tensor]:
    """Features of pictures (N, L, 192), augmented or not, and the motion that is to be read there (N, L, 104)."""
    with exactly(batch.audio):
        pixels, motion = to_pixels(batch.seen["cuts"]), batch.seen["motion"]
        if augmented:
            mirrored = chance(len(motion), 0.5)
            pixels, motion = augment_mouths(pixels, mirrored), mirror_motion(motion, mirrored)
        else:
            pixels = centre_mouths(pixels)
    features = learner.stem(pixels.contiguous(memory_format=torch.channels_last))
    return rearrange(features, "(n l) c -> n l c", n=len(motion)), motion_features(motion)[..., :MOTION_FEATURES]


def hide_features(features: Tensor) -> Tensor:
    """Silence some features (N, L, 192) all through a segment: no single one is to be trusted."""
    return rearrange(F.dropout1d(rearrange(features, "n l c -> n c l"), HIDDEN_FEATURES), "n c l -> n l c")


def hear(learner: Learner, batch: Batch | PairBatch, frames: int, *, augmented: bool = True) -> Tensor:
    """Embeddings (N, W, D) of the voices, augmented or not, over ``frames`` frames."""
    audio = batch.audio
    if augmented:
        with exactly(audio):
            audio = augment_voice(audio) if learner.expert.config.audio == "mel" else augment_features(audio)
    return learner.expert.encode_audio(audio, frames)


def exactly(value: Tensor) -> torch.autocast:
    """Float32 for places and augmentation, whatever autocast says: bfloat16 knows a place only to a percent."""
    return torch.autocast(device_type=value.device.type, enabled=False)


def motion_features(motion: Tensor) -> Tensor:
    """Motion (N, L, 52, 2) as features of frames (N, L, 192): what is not motion is 0."""
    features = MOTION_SCALE * rearrange(motion, "n l p d -> n l (p d)")
    return F.pad(features, (0, FRAME_FEATURES - MOTION_FEATURES))


def sync_terms(learner: Learner, batch: Batch, visual: Tensor, size: BatchSize) -> dict[str, Tensor]:
    """Contrast of all pairs plus eq. 1, over the batch of all processes.

    Args:
        learner: the networks.
        batch: of N segments of W windows.
        visual: (N, W, D) embeddings of its frames.
        size: how it was drawn.

    Returns:
        ``loss`` and what it is made of.
    """
    audio = hear(learner, batch, batch.length, augmented=size.augment)
    heard, seen = (learner.world.gather(rearrange(values, "n w d -> (n w) d")) for values in (audio, visual))
    probability = all_pairs(heard, seen)
    clip, speaker, time = (learner.world.gather_labels(label) for label in batch.window_labels())
    silent = learner.world.gather_labels(batch.silent.flatten().int()).bool() if size.skip_silence else None
    kinds = pair_kinds(clip, speaker, time, silent, size.plan.min_shift)
    config = learner.expert.config
    contrast = contrastive_loss(probability, kinds, learner.log_scale.exp().clamp(max=LARGEST_SCALE))
    margin = all_pairs_margin_loss(probability, kinds, config.margin_same, config.margin_cross, size.plan.cross_share)
    return {
        "loss": contrast + margin,
        "contrast": contrast,
        "margin": margin,
        "p_positive": probability.diagonal().mean(),
        "p_same": probability[kinds.same].mean(),
        "p_cross": probability[kinds.cross].mean(),
        **dead_units(heard, seen),
    }


def dead_units(heard: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Share of the units of both (N, D) embeddings that ReLU makes 0 in every window."""
    return {name: (value <= 0).all(0).float().mean() for name, value in (("dead_audio", heard), ("dead_visual", seen))}


def trained_modules(stage: Stage[Any], learner: Learner, freeze: str | None = None) -> list[nn.Module]:
    """Modules that a stage trains, except those of the frozen tower (``"audio"`` or ``"visual"``)."""
    frozen = set(getattr(learner.expert, f"{freeze}_tower").modules()) if freeze else set()
    return [module for module in stage.trained(learner) if module not in frozen]


def parameters_of(stage: Stage[Any], learner: Learner, freeze: str | None = None) -> Iterator[nn.Parameter]:
    """Parameters that a stage trains."""
    for module in trained_modules(stage, learner, freeze):
        yield from module.parameters()
    if getattr(stage, "contrasts", False):
        yield learner.log_scale
