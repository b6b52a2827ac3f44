"""What is measured while training, on cached clips: pairs, offsets, retrieval."""

from __future__ import annotations

import numpy as np
import torch

from unisync_loss.evaluation.embeddings import ClipEmbedding
from unisync_loss.evaluation.protocols import (
    PairScores,
    accuracy_at,
    area_under_curve,
    best_threshold,
    estimate_offset,
    retrieve,
    score_pairs,
)
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import TrainingModel, encode_audio_batch, encode_visual_batch


@torch.inference_mode()
def embed_data(learner: TrainingModel, data: CachedClipDataset) -> list[ClipEmbedding]:
    """Embed whole cached clips; mouths are cut by landmarks: the aligner is left out, which makes it quick."""
    clips, device = [], next(learner.parameters()).device
    for index in range(len(data)):
        frames = int(data.store.frames[index])
        batch = data.segments(np.array([index]), np.array([0]), frames).to(device)
        with device:
            visual = encode_visual_batch(learner, batch, augmented=False)[0].cpu()
            audio = encode_audio_batch(learner, batch, augmented=False)[0].cpu()
        clips.append(ClipEmbedding(data.entries[index], audio, visual, np.ones(len(visual), bool)))
    return clips


def validate(learner: TrainingModel, data: CachedClipDataset) -> dict[str, float]:
    """AUC, accuracy at the best threshold and at 0.5, share of clips with the right offset, retrieval."""
    clips = embed_data(learner, data)
    return summarise_validation(clips, score_pairs(clips, seed=0))


def summarise_validation(clips: list[ClipEmbedding], scores: PairScores) -> dict[str, float]:
    """See :func:`validate`."""
    threshold = best_threshold(scores)
    right = np.mean([abs(estimate_offset(clip)) <= 1 for clip in clips])
    found = np.concatenate([retrieve(clip, 5) for clip in clips])
    return {
        "val_auc": round(area_under_curve(scores.positive, scores.negative), 4),
        "val_accuracy": round(accuracy_at(scores, threshold), 4),
        "val_accuracy_at_0.5": round(accuracy_at(scores, 0.5), 4),
        "threshold": round(threshold, 4),
        "val_offset_within_1": round(float(right), 4),
        "val_retrieval_5": round(float(found.mean()), 4),
    }
