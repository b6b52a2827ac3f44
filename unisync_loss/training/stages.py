"""Stages that learn sync from the start, for any pair of representations: contrast of all pairs, or random pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from unisync_loss.functional import margin_loss, sync_probability
from unisync_loss.training.data.batches import AlignerBatch, PairBatch, SegmentBatch
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.pairs import CROSS, POSITIVE, PairSampling
from unisync_loss.training.losses import all_pairs, all_pairs_margin_loss, contrastive_loss, pair_kinds
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch
from unisync_loss.utils.distributed import ALONE, ProcessGroup

STRETCHED = 0.5  # share of clips drawn as if spoken faster or slower
LARGEST_SCALE = 30.0  # of the contrastive softmax

Kind = TypeVar("Kind", SegmentBatch, PairBatch, AlignerBatch)


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
    plan: PairSampling = field(default_factory=PairSampling)
    skip_silence: bool = True
    augment: bool = True
    shuffled: bool = False

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup) -> SegmentBatch:
        """Draw this process's part of the batch."""
        batch = data.draw(rng, self.clips, self.segments, self.frames, group, STRETCHED if self.augment else 0.0)
        if not self.shuffled:
            return batch
        return replace(batch, audio=batch.audio.roll(int(rng.integers(1, len(batch.audio))), 0))


class Stage(Protocol[Kind]):
    """One objective: what it draws, what it trains, what it minimises."""

    def trained(self, learner: TrainingModel) -> list[nn.Module]:
        """Modules that this stage trains; all others stay as they are, in eval mode."""
        ...

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup) -> Kind:
        """Draw this process's part of a batch."""
        ...

    def loss(self, learner: TrainingModel, batch: Kind) -> dict[str, Tensor]:
        """Named terms of one step; ``loss`` is the one to minimise."""
        ...


def sync_terms(learner: TrainingModel, batch: SegmentBatch, visual: Tensor, size: BatchSize) -> dict[str, Tensor]:
    """Contrast of all pairs plus eq. 1, over the batch of all processes.

    Args:
        learner: the networks.
        batch: of N segments of W windows.
        visual: (N, W, D) embeddings of its frames.
        size: how it was drawn.

    Returns:
        ``loss`` and what it is made of.
    """
    audio = encode_audio_batch(learner, batch, augmented=size.augment)
    heard, seen = (learner.group.gather(rearrange(values, "n w d -> (n w) d")) for values in (audio, visual))
    probability = all_pairs(heard, seen)
    clip, speaker, time = (learner.group.gather_labels(label) for label in batch.window_labels())
    silent = learner.group.gather_labels(batch.silent.flatten().int()).bool() if size.skip_silence else None
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


def trained_modules(stage: Stage[Any], learner: TrainingModel, freeze: str | None = None) -> list[nn.Module]:
    """Modules that a stage trains, except those of the frozen tower (``"audio"`` or ``"visual"``)."""
    frozen = set(getattr(learner.expert, f"{freeze}_tower").modules()) if freeze else set()
    return [module for module in stage.trained(learner) if module not in frozen]


def parameters_of(stage: Stage[Any], learner: TrainingModel, freeze: str | None = None) -> Iterator[nn.Parameter]:
    """Parameters that a stage trains."""
    for module in trained_modules(stage, learner, freeze):
        yield from module.parameters()
    if getattr(stage, "contrasts", False):
        yield learner.log_scale


def trained_towers(learner: TrainingModel) -> list[nn.Module]:
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

    def trained(self, learner: TrainingModel) -> list[nn.Module]:
        """Train both towers."""
        return trained_towers(learner)

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> SegmentBatch:
        """Draw segments of clips."""
        return self.batch.draw(data, rng, group)

    def loss(self, learner: TrainingModel, batch: SegmentBatch) -> dict[str, Tensor]:
        """Terms of :func:`stages.sync_terms`."""
        return sync_terms(learner, batch, encode_visual_batch(learner, batch, augmented=self.batch.augment), self.batch)


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

    plan: PairSampling
    count: int
    augment: bool = True
    skip_silence: bool = False
    shuffled: bool = False

    def trained(self, learner: TrainingModel) -> list[nn.Module]:
        """Train both towers."""
        return trained_towers(learner)

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> PairBatch:
        """Draw pairs."""
        return data.draw_pairs(rng, self.plan, self.count, group)

    def loss(self, learner: TrainingModel, batch: PairBatch) -> dict[str, Tensor]:
        """Eq. 1 and the mean probability of each kind of pair."""
        seen = encode_visual_batch(learner, batch, augmented=self.augment)[:, 0]
        heard = encode_audio_batch(learner, batch, augmented=self.augment)[:, 0]
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
