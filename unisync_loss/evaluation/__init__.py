"""Evaluation protocols on clips and scores of whole videos."""

from unisync_loss.evaluation.bootstrap import bootstrap_ci, mean_ci
from unisync_loss.evaluation.embeddings import (
    ClipEmbedding,
    embed_audio,
    embed_clips,
    embed_video,
    embed_visual,
    offset_table,
)
from unisync_loss.evaluation.offsets import MAX_OFFSET, TOLERANCE, find_offset
from unisync_loss.evaluation.protocols import (
    best_threshold,
    calibration_of,
    choose_settings,
    score_pairs,
    summarise_pairs,
)
from unisync_loss.evaluation.report import eval_table, summarise
from unisync_loss.evaluation.video_scores import score_video
from unisync_loss.video.voicing import voiced_windows

__all__ = [
    "MAX_OFFSET",
    "TOLERANCE",
    "ClipEmbedding",
    "best_threshold",
    "bootstrap_ci",
    "calibration_of",
    "choose_settings",
    "embed_audio",
    "embed_clips",
    "embed_video",
    "embed_visual",
    "eval_table",
    "find_offset",
    "mean_ci",
    "offset_table",
    "score_pairs",
    "score_video",
    "summarise",
    "summarise_pairs",
    "voiced_windows",
]
