"""Training stages: their protocol, the contrastive loss of all pairs, and random pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from unisync_loss.evaluation.offsets import MIN_SHIFT
from unisync_loss.functional import margin_loss, sync_probability
from unisync_loss.training.data.batches import AlignerBatch, PairBatch, SegmentBatch
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.pairs import CROSS, POSITIVE, PairSampling
from unisync_loss.training.losses import all_pairs, all_pairs_margin_loss, contrastive_loss, pair_kinds
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch
from unisync_loss.utils.distributed import ALONE, ProcessGroup

STRETCHED = 0.5  # share of clips with a resampled tempo, as in the last stage of mel-rgb 0.1
#: of the contrastive softmax, learned from 10 on: at 30 a difference in probability of 0.1 is a factor of 20 in odds
LARGEST_SCALE = 30.0

Kind = TypeVar("Kind", SegmentBatch, PairBatch, AlignerBatch)


@dataclass(frozen=True, kw_only=True)
class SegmentSampling:
    """Size of a batch of segments, and which of the pairs of its windows are negatives.

    Attributes:
        clips: number of different clips.
        segments: segments per clip.
        frames: frames per segment.
        cross_share: weight of cross-speaker pairs among the negatives of eq. 1.
        min_shift: smallest distance in frames between the windows of a same-clip negative.
        skip_silence: two silent windows are not a negative, because their audio is the same.
    """

    # 576 windows per step; on landmarks, 8 clips learn from fewer samples, to AUC 0.834 for 0.836 (docs/training.md)
    clips: int = 32
    segments: int = 2
    frames: int = 13  # nine windows: 1.4 frames are encoded per window where a single window needs five
    cross_share: float = 0.2  # the best of UniSync, Table V
    min_shift: int = MIN_SHIFT
    skip_silence: bool = True


@dataclass(frozen=True, kw_only=True)
class BatchSize(SegmentSampling):
    """A batch of segments, all pairs of whose windows are scored.

    Attributes:
        augment: augment faces, cameras, voices and rooms.
        shuffled: pair every segment with the audio of another, so that nothing can be learnt.
    """

    augment: bool = True
    shuffled: bool = False

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup) -> SegmentBatch:
        """Draw the shard of this process."""
        batch = data.draw(rng, self.clips, self.segments, self.frames, group, STRETCHED if self.augment else 0.0)
        if not self.shuffled:
            return batch
        return replace(batch, audio=batch.audio.roll(int(rng.integers(1, len(batch.audio))), 0))


class Stage(Protocol[Kind]):
    """Objective of a stage: the batches it draws, the modules it trains, the loss it minimises.

    Attributes:
        learns_sync: whether it trains on sync, with the term ``margin`` (eq. 1); other stages learn from landmarks.
    """

    @property
    def learns_sync(self) -> bool:
        """See the class."""
        ...

    def trained(self, model: TrainingModel) -> list[nn.Module]:
        """Modules that this stage trains; all others stay frozen, in eval mode."""
        ...

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup) -> Kind:
        """Draw the shard of this process."""
        ...

    def loss(self, model: TrainingModel, batch: Kind) -> dict[str, Tensor]:
        """Named scalar terms of one step; ``loss`` is the one to minimise."""
        ...


@dataclass(frozen=True)
class StageSpec:
    """One stage of a training.

    Attributes:
        name: name in the log.
        objective: its batches, trained modules and loss.
        steps: number of steps.
        learning_rate: peak of the schedule.
    """

    name: str
    objective: Stage[Any]
    steps: int
    learning_rate: float


def sync_terms(
    model: TrainingModel, batch: SegmentBatch, audio: Tensor, visual: Tensor, size: BatchSize
) -> dict[str, Tensor]:
    """Contrastive loss of all pairs plus eq. 1, over the batch of all processes.

    Args:
        model: the networks.
        batch: N segments of W windows.
        audio: (N, W, D) audio embeddings.
        visual: (N, W, D) visual embeddings.
        size: settings of the batch.

    Returns:
        ``loss``, its terms, mean probabilities by kind of pair and shares of dead units.
    """
    # windows of all processes: a batch has as many negatives however many processes share it
    audio, visual = (model.group.gather(rearrange(values, "n w d -> (n w) d")) for values in (audio, visual))
    probability = all_pairs(audio, visual)
    clip, speaker, time = (model.group.gather_labels(label) for label in batch.window_labels())
    silent = model.group.gather_labels(batch.silent.flatten().int()).bool() if size.skip_silence else None
    kinds = pair_kinds(clip, speaker, time, silent, size.min_shift)
    config = model.expert.config
    contrast = contrastive_loss(probability, kinds, model.log_scale.exp().clamp(max=LARGEST_SCALE))
    # both: AUC 0.75 takes 46,000 to 58,000 samples, by eq. 1 and random pairs alone 230,000 or more (docs/training.md)
    margin = all_pairs_margin_loss(probability, kinds, config.margin_same, config.margin_cross, size.cross_share)
    return {
        "loss": contrast + margin,
        "contrast": contrast,
        "margin": margin,
        "p_positive": probability.diagonal().mean(),
        "p_same": probability[kinds.same].mean(),
        "p_cross": probability[kinds.cross].mean(),
        **dead_units(audio, visual),
    }


def dead_units(audio: Tensor, visual: Tensor) -> dict[str, Tensor]:
    """Share of the units of both (N, D) embeddings that ReLU sets to 0 in every window."""
    # their gradient through ReLU (UniSync, section III-B) is 0: once dead in all data, a unit stays dead
    return {
        f"dead_{side}": (value <= 0).all(0).float().mean() for side, value in (("audio", audio), ("visual", visual))
    }


def trained_modules(stage: Stage[Any], model: TrainingModel, freeze: str | None = None) -> list[nn.Module]:
    """Modules that a stage trains, except those of the frozen tower (``"audio"`` or ``"visual"``)."""
    frozen = set(getattr(model.expert, f"{freeze}_tower").modules()) if freeze else set()
    return [module for module in stage.trained(model) if module not in frozen]


def parameters_of(stage: Stage[Any], model: TrainingModel, freeze: str | None = None) -> Iterator[nn.Parameter]:
    """Parameters that a stage trains."""
    for module in trained_modules(stage, model, freeze):
        yield from module.parameters()
    if stage.learns_sync:
        yield model.log_scale


def trained_towers(model: TrainingModel) -> list[nn.Module]:
    """Both towers; of small experts without the mouth aligner, and as the submodules that are called."""
    expert = model.expert
    if expert.config.architecture == "small":  # compiled modules must be those that are called, not their parent
        return [model.visual.stem, model.visual.trunk, expert.audio_tower]
    return [expert.visual_tower, expert.audio_tower]


@dataclass(frozen=True)
class ContrastStage:
    """Both towers learn sync at once from all pairs of a batch."""

    batch: BatchSize
    learns_sync: ClassVar[bool] = True

    def trained(self, model: TrainingModel) -> list[nn.Module]:
        """Train both towers."""
        return trained_towers(model)

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> SegmentBatch:
        """Draw segments of clips."""
        return self.batch.draw(data, rng, group)

    def loss(self, model: TrainingModel, batch: SegmentBatch) -> dict[str, Tensor]:
        """Terms of :func:`sync_terms`."""
        audio, visual = (
            encode(model, batch, augmented=self.batch.augment) for encode in (encode_audio_batch, encode_visual_batch)
        )
        return sync_terms(model, batch, audio, visual, self.batch)


@dataclass(frozen=True)
class RandomPairStage:
    """Both towers learn sync from random pairs and eq. 1 alone, as in the paper.

    Attributes:
        plan: proportions and distances of the pairs.
        count: pairs per batch.
        augment: augment faces, cameras, voices and rooms.
        skip_silence: give no weight to negatives of two silent windows, because their audio is the same.
        shuffled: permute the labels, so that nothing can be learnt.
    """

    plan: PairSampling
    count: int
    augment: bool = True
    skip_silence: bool = False
    shuffled: bool = False

    learns_sync: ClassVar[bool] = True

    def trained(self, model: TrainingModel) -> list[nn.Module]:
        """Train both towers."""
        return trained_towers(model)

    def draw(self, data: CachedClipDataset, rng: np.random.Generator, group: ProcessGroup = ALONE) -> PairBatch:
        """Draw pairs."""
        return data.draw_pairs(rng, self.plan, self.count, group)

    def loss(self, model: TrainingModel, batch: PairBatch) -> dict[str, Tensor]:
        """Eq. 1 and the mean probability of each kind of pair."""
        visual = encode_visual_batch(model, batch, augmented=self.augment)[:, 0]
        audio = encode_audio_batch(model, batch, augmented=self.augment)[:, 0]
        probability, config = sync_probability(audio, visual), model.expert.config
        kind = batch.kind[torch.randperm(len(batch.kind))] if self.shuffled else batch.kind
        positive, cross = kind == POSITIVE, kind == CROSS
        margin = torch.where(cross, config.margin_cross, config.margin_same)  # positives have none in eq. 1
        losses = margin_loss(probability, positive.float(), margin)
        weight = torch.where(batch.silent & ~positive, 0.0, 1.0) if self.skip_silence else torch.ones_like(losses)
        loss = (losses * weight).sum() / weight.sum().clamp(min=1)  # a batch of silent negatives only has none
        means = {"p_positive": positive, "p_same": ~positive & ~cross, "p_cross": cross}
        return {
            "loss": loss,
            "margin": loss.detach(),
            **{name: probability[chosen].mean() for name, chosen in means.items()},
            **dead_units(audio, visual),
        }
