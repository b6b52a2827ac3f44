"""What a student learns: the teacher's embeddings against all others of the batch, and the states of Whisper."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.training.losses import all_pairs, contrastive_loss, pair_kinds
from unisync_loss.training.stages import LARGEST_SCALE


class WindowTargets(NamedTuple):
    """What the windows of B crops are compared with.

    Attributes:
        embedding: (B, W, D) of the teacher.
        recording: (B,) index of the recording.
        speaker: (B,) index of the speaker.
        start: (B,) first frame of the crop in its recording.
        voiced: (B, W) windows with speech.
    """

    embedding: Tensor
    recording: Tensor
    speaker: Tensor
    start: Tensor
    voiced: Tensor


def matching_terms(student: Tensor, targets: WindowTargets, log_scale: Tensor) -> dict[str, Tensor]:
    """Contrast of all windows of a batch, with the teacher's embeddings in the place of visual ones, and 1 - eq. 2.

    Args:
        student: (B, W, D) embeddings.
        targets: of the same windows.
        log_scale: logarithm of the softmax scale.

    Returns:
        Scalars ``contrast`` and ``distance`` (1 minus the mean of eq. 2 of equal windows).
    """
    count = student.shape[1]
    own, other = (rearrange(values, "b w d -> (b w) d") for values in (student, targets.embedding))
    recording, speaker = (repeat(values, "b -> (b w)", w=count) for values in (targets.recording, targets.speaker))
    time = rearrange(targets.start[:, None] + torch.arange(count, device=student.device), "b w -> (b w)")
    kinds = pair_kinds(recording, speaker, time, ~rearrange(targets.voiced, "b w -> (b w)"))
    probability = all_pairs(own, other)
    contrast = contrastive_loss(probability, kinds, log_scale.exp().clamp(max=LARGEST_SCALE))
    return {"contrast": contrast, "distance": 1 - probability.diagonal().mean()}


def regression_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """DistilHuBERT's loss: mean absolute difference plus the negative log-sigmoid of the cosine.

    Args:
        predicted: (…, F).
        target: (…, F) standardised states.

    Returns:
        Scalar.
    """
    predicted = predicted.float()
    return F.l1_loss(predicted, target) - F.logsigmoid(F.cosine_similarity(predicted, target, dim=-1)).mean()
