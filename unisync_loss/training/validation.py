"""Monitoring of a training: validation on cached clips, and detection of a chance-level loss."""

from __future__ import annotations

import math

import numpy as np
import torch

from unisync_loss.evaluation.embeddings import ClipEmbedding
from unisync_loss.evaluation.protocols import (
    PairScores,
    accuracy_at,
    area_under_curve,
    choose_settings,
    estimate_offset,
    retrieve,
    score_pairs,
)
from unisync_loss.functional import margin_plateau
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch

_NEAR = 0.97  # share of the plateau below which something has been learnt; above it, noise of a batch can explain it
_MEMORY = 0.98  # of the running mean of the loss that is compared with the plateau: about 50 steps


@torch.inference_mode()
def embed_data(model: TrainingModel, data: CachedClipDataset) -> list[ClipEmbedding]:
    """Embed whole cached clips. Mouths are cropped by landmarks instead of the mouth aligner, which is faster."""
    clips, device = [], next(model.parameters()).device
    for index in range(len(data)):
        frames = int(data.store.frames[index])
        batch = data.segments(np.array([index]), np.array([0]), frames).to(device)
        with device:
            visual = encode_visual_batch(model, batch, augmented=False)[0].cpu()
            audio = encode_audio_batch(model, batch, augmented=False)[0].cpu()
        clips.append(ClipEmbedding(data.entries[index], audio, visual, np.ones(len(visual), bool)))
    return clips


def validate(model: TrainingModel, data: CachedClipDataset) -> dict[str, float]:
    """AUC, accuracy at the best threshold and at 0.5, share of clips whose offset is within one frame, retrieval."""
    clips = embed_data(model, data)
    return summarise_validation(clips, score_pairs(clips, seed=0))


def summarise_validation(clips: list[ClipEmbedding], scores: PairScores) -> dict[str, float]:
    """Metrics of :func:`validate` from embeddings and scores of pairs."""
    chosen = choose_settings(scores)
    within = np.mean([abs(estimate_offset(clip)) <= 1 for clip in clips])
    found = np.concatenate([retrieve(clip, 5) for clip in clips])
    return {
        "val_auc": round(area_under_curve(scores.positive, scores.negative), 4),
        "val_accuracy": round(accuracy_at(scores, chosen["threshold"]), 4),
        "val_accuracy_at_0.5": round(accuracy_at(scores, 0.5), 4),
        **chosen,
        "val_offset_within_1": round(float(within), 4),
        "val_retrieval_5": round(float(found.mean()), 4),
    }


class PlateauWatch:
    """Detects an eq. 1 loss that stays at its chance level.

    Args:
        margins: of same-speaker and of cross-speaker negatives.
        cross_share: share of cross-speaker pairs among the negatives.
        positive_share: share of positives among all pairs.
        patience: steps at the chance level before a diagnosis; 0 for none.

    Attributes:
        value: chance level, see :func:`margin_plateau`.
        mean: running mean of the loss.
        steps: consecutive steps at the chance level.
    """

    def __init__(self, margins: tuple[float, float], cross_share: float, positive_share: float, patience: int) -> None:
        self.value = margin_plateau(*margins, cross_share, positive_share)
        self.patience, self.steps, self.mean = patience, 0, math.nan

    def update(self, margin_loss: float) -> bool:
        """Add the loss of a step; returns whether a diagnosis is due."""
        self.mean = margin_loss if math.isnan(self.mean) else _MEMORY * self.mean + (1 - _MEMORY) * margin_loss
        self.steps = self.steps + 1 if self.on else 0
        return self.patience > 0 and self.steps > 0 and self.steps % self.patience == 0

    @property
    def on(self) -> bool:
        """Whether the running mean is at the chance level."""
        return self.mean >= _NEAR * self.value


def diagnose(terms: dict[str, float], watch: PlateauWatch, clips: int, data: tuple[str, ...]) -> list[str]:
    """List likely causes of a loss that stays at its chance level, and remedies.

    Args:
        terms: of the last step.
        watch: at the chance level.
        clips: number of training clips.
        data: training folders.
    """
    lines = [
        f"{watch.steps} steps on the plateau: eq. 1 is {watch.mean:.3f}, its chance level is "
        f"{watch.value:.3f} with these margins (0.693 without margins)"
    ]
    for name in ("audio", "visual"):
        if terms.get(f"dead_{name}", 0.0) > 0.9:
            share = terms[f"dead_{name}"]
            lines.append(
                f"{share:.0%} of the {name} units are dead: lower recipe.learning_rate, or start from --init mel-rgb"
            )
    positive, same = terms.get("p_positive", math.nan), terms.get("p_same", math.nan)
    if abs(positive - same) < 0.02:
        cause = "audio and video may not belong together, or have other offsets"
        lines.append(f"matches ({positive:.3f}) and mismatches ({same:.3f}) score alike: {cause}")
    if clips < 50:
        lines.append(f"{clips} clips are few: hundreds of people are needed, or start from --init mel-rgb")
    folder = data[0]
    lines.append(f"check the data: unisync doctor {folder}; correct its offsets: unisync align {folder}")
    lines.append("check the trainer: unisync check-training --overfit 64 must reach 99 % in minutes")
    return lines
