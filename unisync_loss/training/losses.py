"""What the trainer minimises: all pairs of a batch at once, and eq. 1 on the same pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.evaluation.offsets import MIN_SHIFT
from unisync_loss.functional import margin_loss, unit_rectified

WITHIN_SHARE = 0.8  # of the contrast within a clip: across clips, who speaks can be guessed instead of what is said


class PairKinds(NamedTuple):
    """Kind of every pair of the N windows of a batch, (N, N) each; rows are visual, columns audio.

    Attributes:
        same: same clip, at least two frames apart.
        cross: two speakers.
        ignored: same clip, one frame apart; and what else nobody is asked.
    """

    same: Tensor
    cross: Tensor
    ignored: Tensor


def pair_kinds(
    clip: Tensor, speaker: Tensor, time: Tensor, silent: Tensor | None = None, nearest: int = MIN_SHIFT
) -> PairKinds:
    """Sort pairs by kind.

    Args:
        clip: (N,) index of the clip.
        speaker: (N,) index of the speaker.
        time: (N,) first frame of the window.
        silent: (N,) windows without a voice: two of them are no mismatch, nobody could tell.
        nearest: frames between the windows of a mismatch of one clip, at least.
    """
    same_clip = clip[:, None] == clip[None]
    near = (time[:, None] - time[None]).abs() < max(nearest, MIN_SHIFT)
    own = torch.eye(len(clip), dtype=torch.bool, device=clip.device)
    same, cross, ignored = same_clip & ~near, speaker[:, None] != speaker[None], same_clip & near
    if silent is not None:
        both = silent[:, None] & silent[None]
        same, cross, ignored = same & ~both, cross & ~both, ignored | both
    return PairKinds(same, cross, ignored & ~own)


def contrastive_loss(probability: Tensor, kinds: PairKinds, scale: Tensor) -> Tensor:
    """Softmax over the whole batch plus one within each clip, in both directions.

    Args:
        probability: (N, N) sync probability of all pairs, matches on the diagonal.
        kinds: of the pairs.
        scale: factor from probability to logit.

    Returns:
        Scalar.
    """
    logits = (scale * probability).masked_fill(kinds.ignored, -torch.inf)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    within = logits.masked_fill(~(kinds.same | own), -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    across, inside = (
        (F.cross_entropy(table, target) + F.cross_entropy(table.T, target)) / 2 for table in (logits, within)
    )
    return (1 - WITHIN_SHARE) * across + WITHIN_SHARE * inside


def all_pairs_margin_loss(
    probability: Tensor, kinds: PairKinds, margin_same: float, margin_cross: float, cross_share: float = 0.2
) -> Tensor:
    """Eq. 1 over all pairs: half positives; of the negatives a fifth by weight are of two speakers.

    Args:
        probability: (N, N), matches on the diagonal.
        kinds: of the pairs.
        margin_same: margin of same-speaker negatives.
        margin_cross: margin of cross-speaker negatives.
        cross_share: weight of cross-speaker pairs among the negatives.

    Returns:
        Scalar.
    """
    positive = margin_loss(probability.diagonal(), torch.ones(()), 0.0).mean()
    same = margin_loss(probability[kinds.same], torch.zeros(()), margin_same)
    cross = margin_loss(probability[kinds.cross], torch.zeros(()), margin_cross)
    if not len(cross) or not len(same):  # a batch of one speaker, or of segments of one window
        present = torch.cat([same, cross])
        return (positive + (present.mean() if len(present) else 0.0)) / 2
    return (positive + (1 - cross_share) * same.mean() + cross_share * cross.mean()) / 2


def all_pairs(audio: Tensor, visual: Tensor) -> Tensor:
    """Sync probability of all pairs of (N, D) embeddings, (N, N) in float32 at least; rows visual, columns audio."""
    with torch.autocast(device_type=audio.device.type, enabled=False):
        return (unit_rectified(visual) @ unit_rectified(audio).T).clamp(max=1)
