"""Stages of training a ``small`` expert on rgb: face pose, mouth motion, sync from motion, everything together.

A visual network that is trained for sync from the start stays on the plateau for a long time. Here one network learns
to predict the mouth's motion (displacement of each lip point from its median over the clip) from a single frame, and
others learn sync from the measured motion. Joined, they already score sync from pixels; then all are trained together.
All other experts have one stage, :mod:`unisync_loss.training.stages`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from unisync_loss.models.mouth_aligner import pose_error
from unisync_loss.training.data.augment import (
    augment_motion,
    augment_views,
    mirror_motion,
    random_mask,
    uniform,
)
from unisync_loss.training.data.batches import AlignerBatch, SegmentBatch
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.visual_frames import MouthFrames
from unisync_loss.training.model import (
    MOTION_FEATURES,
    TrainingModel,
    autocast_disabled,
    encode_audio_batch,
    hide_features,
    motion_features,
    mouth_features,
    mouth_inputs,
)
from unisync_loss.training.stages import BatchSize, sync_terms
from unisync_loss.utils.distributed import ALONE, ProcessGroup

PERTURBATION_STEP = 1.25  # radii: one signed step from a random start needs more than 1 (arXiv 2001.03994)


@dataclass(frozen=True)
class MouthAlignerStage:
    """The aligner learns the pose of the face in any crop."""

    batch: int = 128  # faces of 64 x 64 pixels: far cheaper than the segments of the other stages

    learns_sync: ClassVar[bool] = False

    def trained(self, model: TrainingModel) -> list[nn.Module]:
        """Train the aligner."""
        assert model.visual.aligner is not None
        return [model.visual.aligner]

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> AlignerBatch:
        """Draw views of faces."""
        return data.draw_views(rng, self.batch, group)

    def loss(self, model: TrainingModel, batch: AlignerBatch) -> dict[str, Tensor]:
        """Error of the corners of the mouth crop after either stage of the aligner, in template units."""
        assert model.visual.aligner is not None
        with autocast_disabled(batch.views):
            views, poses = augment_views(batch.views, batch.poses)
            first, second = (pose_error(pose, poses) for pose in model.visual.aligner.predict_two_stage(views))
        return {"loss": first.mean() + second.mean(), "first_look": first.median(), "second_look": second.median()}


@dataclass(frozen=True)
class GeometryStage:
    """The frame network learns to predict the mouth's motion from single frames."""

    batch: BatchSize

    learns_sync: ClassVar[bool] = False

    def trained(self, model: TrainingModel) -> list[nn.Module]:
        """Train the frame network."""
        return [model.stem]

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> SegmentBatch:
        """Draw a segment of each of many clips."""
        # one segment per clip: frames of one face teach less than frames of many
        return data.draw(rng, self.batch.clips * self.batch.segments, 1, self.batch.frames, group)

    def loss(self, model: TrainingModel, batch: SegmentBatch) -> dict[str, Tensor]:
        """Distance from the measured motion, and the unexplained share of its variance."""
        mouths, motion = mouth_inputs(model, batch)
        features = mouth_features(model, mouths)
        error = features[..., :MOTION_FEATURES] - motion
        # absolute, because the landmarks that it is compared with have outliers
        return {"loss": error.abs().mean(), "unexplained": error.square().mean() / motion.square().mean()}


@dataclass(frozen=True)
class SyncStage:
    """Audio network and visual trunk learn sync from the measured motion, which is cheap: no pixels are encoded."""

    batch: BatchSize
    learns_sync: ClassVar[bool] = True

    def trained(self, model: TrainingModel) -> list[nn.Module]:
        """Train audio network and visual trunk."""
        return [model.visual.trunk, model.expert.audio_tower]

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> SegmentBatch:
        """Draw segments of clips."""
        return self.batch.draw(data, rng, group)

    def loss(self, model: TrainingModel, batch: SegmentBatch) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`."""
        assert isinstance(batch.visual, MouthFrames)
        with autocast_disabled(batch.audio):
            # the error of motion predicted from pixels, so that the trunk is used to it when the stages are joined
            motion = mirror_motion(augment_motion(batch.visual.motion), random_mask(len(batch.clip), 0.5))
        audio = encode_audio_batch(model, batch, augmented=self.batch.augment)
        return sync_terms(model, batch, audio, model.visual.encode_frames(motion_features(motion)), self.batch)


@dataclass(frozen=True)
class JointStage:
    """Everything but the aligner learns sync from pixels.

    Attributes:
        batch: clips, segments, frames.
        motion_weight: of the geometry loss, which keeps the frame features those of the measured motion.
        perturbation: largest adversarial change of a pixel of the mouth crops, in [0, 1]; 0 for none.
        perturbed: share of the segments that are changed.
    """

    batch: BatchSize
    motion_weight: float = 0.2  # below 1, because sync is what is wanted and may need other features than motion
    perturbation: float = 0.0
    perturbed: float = 0.0
    learns_sync: ClassVar[bool] = True

    def trained(self, model: TrainingModel) -> list[nn.Module]:
        """Train all networks but the aligner."""
        return [model.stem, model.visual.trunk, model.expert.audio_tower]

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> SegmentBatch:
        """Draw segments of clips."""
        return self.batch.draw(data, rng, group)

    def loss(self, model: TrainingModel, batch: SegmentBatch) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`, and the error of the motion."""
        mouths, motion = mouth_inputs(model, batch, augmented=self.batch.augment)
        audio = encode_audio_batch(model, batch, augmented=self.batch.augment)
        if self.perturbation > 0:
            mouths = self._perturb(model, batch, mouths, audio.detach())
        features = mouth_features(model, mouths)
        # without this and stronger augmentation, AUC was 0.958 on training clips, 0.895 on val (mel-rgb 0.1)
        kept = hide_features(features) if self.batch.augment else features
        terms = sync_terms(model, batch, audio, model.visual.encode_frames(kept), self.batch)
        error = (features[..., :MOTION_FEATURES] - motion).abs().mean()
        return terms | {"loss": terms["loss"] + self.motion_weight * error, "motion_error": error}

    def _perturb(self, model: TrainingModel, batch: SegmentBatch, mouths: Tensor, audio: Tensor) -> Tensor:
        """Change the pixels so that the loss of sync rises."""

        def loss(changed: Tensor) -> Tensor:
            visual = model.visual.encode_frames(mouth_features(model, changed))
            return sync_terms(model, batch, audio, visual, self.batch)["loss"]

        with evaluating(model.stem, model.visual.trunk):
            return perturb(mouths, loss, self.perturbation, self.perturbed)


def perturb(images: Tensor, loss: Callable[[Tensor], Tensor], radius: float, share: float) -> Tensor:
    """Change a share of the segments by one signed gradient step from a random start.

    A classifier trained on clean pixels follows patterns that lips do not make, and a generator trained against it
    paints them. Trained on its own worst cases, its gradient comes closer to what lips look like (arXiv 1906.09453).

    Args:
        images: (N, L, C, H, W) in [0, 1].
        loss: of images of that shape, a scalar that the step raises.
        radius: largest change of a pixel; each segment draws its own between 0 and this.
        share: of the segments.

    Returns:
        Same shape, in [0, 1], detached.
    """
    count = len(images)
    bound = (uniform((count,), 0.0, radius) * random_mask(count, share).float())[:, None, None, None, None]
    start = (images + bound * torch.empty_like(images).uniform_(-1, 1)).clamp(0, 1).requires_grad_()
    [gradient] = torch.autograd.grad(loss(start), start)
    change = start.detach() + PERTURBATION_STEP * bound * gradient.sign() - images
    return (images + change.clamp(-bound, bound)).clamp(0, 1)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules in eval mode for a while: without dropout, the step fools the network that is used later."""
    training = {module: module.training for root in modules for module in root.modules()}
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
