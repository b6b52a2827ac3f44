"""Losses of training over all pairs of a batch: contrast, and eq. 1 with margins."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.evaluation.offsets import MIN_SHIFT
from unisync_loss.functional import margin_loss, unit_rectified

WITHIN_SHARE = 0.8  # of the contrast within a clip: across clips, matching the speaker's face and voice is enough


class PairKinds(NamedTuple):
    """Kind of every pair of the N windows of a batch, (N, N) each; rows are visual, columns audio.

    Attributes:
        same: same clip, at least two frames apart.
        cross: two speakers.
        ignored: neither positive nor negative: same clip and less than two frames apart, or both silent.
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
        silent: (N,) windows without speech: two of them are not a negative, because their audio is the same.
        nearest: smallest distance in frames between the windows of a same-clip negative.
    """
    same_clip = clip[:, None] == clip[None]
    # one frame off counts as correct in every offset metric (TOLERANCE), so it is not a negative
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
        kinds: kind of every pair.
        scale: factor from probability to logit.

    Returns:
        Scalar.
    """
    logits = (scale * probability).masked_fill(kinds.ignored, -torch.inf)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    within = logits.masked_fill(~(kinds.same | own), -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    # rows choose the audio of a video, columns the video of an audio
    across, inside = (
        (F.cross_entropy(table, target) + F.cross_entropy(table.T, target)) / 2 for table in (logits, within)
    )
    return (1 - WITHIN_SHARE) * across + WITHIN_SHARE * inside


def all_pairs_margin_loss(
    probability: Tensor, kinds: PairKinds, margin_same: float, margin_cross: float, cross_share: float = 0.2
) -> Tensor:
    """Eq. 1 over all pairs, with equal weights of positives and negatives.

    Args:
        probability: (N, N), matches on the diagonal.
        kinds: kind of every pair.
        margin_same: margin of same-speaker negatives.
        margin_cross: margin of cross-speaker negatives.
        cross_share: weight of cross-speaker pairs among the negatives; the paper's best is 0.2.

    Returns:
        Scalar.
    """
    positive = margin_loss(probability.diagonal(), torch.ones(()), 0.0).mean()  # eq. 1 has no margin for positives
    same = margin_loss(probability[kinds.same], torch.zeros(()), margin_same)
    cross = margin_loss(probability[kinds.cross], torch.zeros(()), margin_cross)
    if not len(cross) or not len(same):  # all of one speaker, or one window per clip
        present = torch.cat([same, cross])
        return (positive + (present.mean() if len(present) else 0.0)) / 2
    # shares of the paper (0.2 of two speakers is the best in Table V) by weights: all pairs are used
    return (positive + (1 - cross_share) * same.mean() + cross_share * cross.mean()) / 2


def all_pairs(audio: Tensor, visual: Tensor) -> Tensor:
    """Sync probability of all pairs of (N, D) embeddings, (N, N) in float32 at least; rows visual, columns audio."""
    # bfloat16 has no number between 0.996 and 1, where the positives are; float32 rounds some cosines above 1
    with torch.autocast(device_type=audio.device.type, enabled=False):
        return (unit_rectified(visual) @ unit_rectified(audio).T).clamp(max=1)
