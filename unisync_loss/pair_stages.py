"""Stages that learn sync from the start, for any pair of representations: contrast of all pairs, or random pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from unisync_loss.augment import augment_camera, augment_crop, augment_pictures, augment_series, chance
from unisync_loss.batches import Batch, PairBatch
from unisync_loss.config import WINDOW_FRAMES, UniSyncConfig
from unisync_loss.functional import margin_loss, sync_probability
from unisync_loss.pairs import CROSS, POSITIVE, PairPlan
from unisync_loss.parallel import ALONE, World
from unisync_loss.sampling import ClipData
from unisync_loss.series import visual_of_series
from unisync_loss.stages import BatchSize, Learner, dead_units, exactly, hear, see_mouths, sync_terms


def see(learner: Learner, batch: Batch | PairBatch, *, augmented: bool = True) -> Tensor:
    """Embeddings (N, W, D) of what is seen, augmented or not; mouths of small experts on rgb are cut by landmarks."""
    seen, config = batch.seen, learner.expert.config
    if "cuts" in seen:
        features, _ = see_mouths(learner, batch, augmented=augmented)
        return learner.visual.encode_frames(features)
    with exactly(batch.audio):
        if "crops" in seen:
            video = _pictures(seen["crops"], augmented)
        elif augmented:
            video = _other_faces(config, seen)
        else:
            video = visual_of_series(config, seen["series"][:, :, 0])
    if config.architecture == "paper":
        return learner.expert.encode_visual(video)
    shown = video if config.visual == "parsing" else learner.expert.visual_input(video)
    frames = learner.visual.look_at_mouths(shown.to(learner.log_scale.dtype))
    if not augmented:
        return learner.visual.encode_frames(frames - frames.mean(1, keepdim=True))
    segment, clip = frames[:, :-1], frames[:, -1:]
    # experts are given whole clips, and short stretches
    own = chance(len(frames), 0.5)[:, None, None]
    return learner.visual.encode_frames(segment - torch.where(own, segment.mean(1, keepdim=True), clip))


def _pictures(crops: Tensor, augmented: bool) -> Tensor:
    """(N, L, H, W, 3) bytes → (N, L, 3, H, W) in [0, 1]."""
    pictures = rearrange(crops, "n l h w c -> (n l) c h w").float() / 255
    if augmented:
        pictures = augment_camera(augment_pictures(pictures, crops.shape[1]), crops.shape[1])
    return rearrange(pictures, "(n l) c h w -> n l c h w", n=len(crops))


def _other_faces(config: UniSyncConfig, seen: dict[str, Tensor]) -> Tensor:
    """Augmented segments (N, L, …); for small experts (N, L + 1, …), the mean of their clip last: it is taken off."""
    series, rest = seen["series"], seen["rest"]
    if config.architecture == "small":
        series = torch.cat([series, rest], dim=1)
    return visual_of_series(config, augment_series(series, rest, chance(len(series), 0.5)), augment_crop)


def trained_towers(learner: Learner) -> list[nn.Module]:
    """Both towers; of small experts all but the aligner, in the parts that are called."""
    expert = learner.expert
    if expert.config.architecture == "small":
        return [learner.visual.stem, learner.visual.trunk, expert.audio_tower]
    return [expert.visual_tower, expert.audio_tower]


@dataclass(frozen=True)
class ContrastStage:
    """Both towers learn sync at once, from all pairs of a batch."""

    batch: BatchSize
    contrasts: ClassVar[bool] = True

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train both towers."""
        return trained_towers(learner)

    def draw(self, data: ClipData, generator: np.random.Generator, world: World = ALONE) -> Batch:
        """Draw segments of clips."""
        return self.batch.draw(data, generator, world)

    def loss(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Terms of :func:`stages.sync_terms`."""
        return sync_terms(learner, batch, see(learner, batch, augmented=self.batch.augment), self.batch)


@dataclass(frozen=True)
class RandomPairStage:
    """Both towers learn sync from random pairs and eq. 1 alone, as in the paper.

    Attributes:
        plan: what is drawn.
        count: pairs of a batch.
        augment: other faces, cameras, voices and rooms.
        skip_silence: give no weight to negatives of two silent windows: nobody could tell.
        shuffled: a self-test: the labels are drawn at random.
    """

    plan: PairPlan
    count: int
    augment: bool = True
    skip_silence: bool = False
    shuffled: bool = False

    def trained(self, learner: Learner) -> list[nn.Module]:
        """Train both towers."""
        return trained_towers(learner)

    def draw(self, data: ClipData, generator: np.random.Generator, world: World = ALONE) -> PairBatch:
        """Draw pairs."""
        return data.draw_pairs(generator, self.plan, self.count, world)

    def loss(self, learner: Learner, batch: PairBatch) -> dict[str, Tensor]:
        """Eq. 1 and the mean probability of each kind of pair."""
        seen = see(learner, batch, augmented=self.augment)[:, 0]
        heard = hear(learner, batch, WINDOW_FRAMES, augmented=self.augment)[:, 0]
        probability, config = sync_probability(heard, seen), learner.expert.config
        kind = batch.kind[torch.randperm(len(batch.kind))] if self.shuffled else batch.kind
        positive, cross = kind == POSITIVE, kind == CROSS
        margin = torch.where(cross, config.margin_cross, config.margin_same)
        losses = margin_loss(probability, positive.float(), margin)
        weight = torch.where(batch.silent & ~positive, 0.0, 1.0) if self.skip_silence else torch.ones_like(losses)
        loss = (losses * weight).sum() / weight.sum().clamp(min=1)
        means = {"p_positive": positive, "p_same": ~positive & ~cross, "p_cross": cross}
        return {
            "loss": loss,
            "margin": loss.detach(),
            **{name: probability[chosen].mean() for name, chosen in means.items()},
            **dead_units(heard, seen),
        }
