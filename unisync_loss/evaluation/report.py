"""The ``unisync eval`` report: protocols ``pairs`` (also across speakers), ``detection`` and ``retrieval@K``.

Any model can be measured: embeddings of an expert, or windows with a score of their own (``ClipEmbedding.score``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from unisync_loss.data.clips import ClipEntry, list_split
from unisync_loss.evaluation.embeddings import ClipEmbedding, embed_clips
from unisync_loss.evaluation.offsets import MIN_SHIFT, TOLERANCE
from unisync_loss.evaluation.protocols import (
    PairScores,
    accuracy_at,
    area_under_curve,
    calibration_of,
    estimate_offset,
    score_cross_pairs,
    score_pairs,
    summarise_calibration,
    summarise_detection,
    summarise_pairs,
    summarise_retrieval,
)
from unisync_loss.evaluation.results import EvalReport, GroupResult, ProtocolResult
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.progress import Progress


def evaluate_expert(
    expert: UniSyncExpert,
    model: str,
    data: str | os.PathLike[str],
    *,
    seed: int = 0,
    limit: int | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> EvalReport:
    """Measure an expert on a folder of clips by every protocol.

    Args:
        expert: in eval mode.
        model: its name.
        data: store, split of a store, or folder of clips, see :func:`unisync_loss.data.clips.list_split`.
        seed: of pairs and intervals.
        limit: number of clips, spread evenly over the folder; None takes all.
        log: takes lines of progress.

    Returns:
        The report. Clips that cannot be read or show no face are in ``left_out``.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: for a folder without clips, or none that can be embedded.
    """
    entries = list_split(data)
    if limit is not None and limit < len(entries):
        entries = [entries[index * len(entries) // limit] for index in range(limit)]
    clips: list[ClipEmbedding] = []
    skipped: dict[str, str] = {}
    progress = Progress(log, len(entries), "clips")
    for clip in embed_clips(expert, entries, skipped=skipped, isolated=True):
        clips.append(clip)
        progress.update(len(clips) + len(skipped))
    result = summarise(clips, model, expert.config.threshold, seed, skipped, calibration_of([expert.config]))
    return {"audio": expert.config.audio, "visual": expert.config.visual, **result}


def summarise(
    clips: Sequence[ClipEmbedding],
    model: str,
    threshold: float,
    seed: int,
    skipped: Mapping[str, str] | None = None,
    calibration: tuple[float, float] | None = None,
) -> ProtocolResult:
    """Measure embedded clips by every protocol.

    Args:
        clips: embedded clips.
        model: name of the model that embedded them.
        threshold: score above which a window counts as in sync, chosen on other clips
            (:func:`unisync_loss.evaluation.protocols.best_threshold`).
        seed: of pairs and intervals.
        skipped: name and reason of clips that could not be embedded.
        calibration: temperature and midpoint, chosen on other clips, see
            :func:`unisync_loss.functional.calibrated_probability`; None for a model without.

    Returns:
        The measures, ready for JSON.

    Raises:
        ValueError: when there is no clip, or none long enough.
    """
    skipped = skipped or {}
    if not clips:
        first = next((f": {name}: {reason}" for name, reason in skipped.items()), "")
        raise ValueError(f"none of {len(skipped)} clips could be embedded{first}")
    scores, cross = score_pairs(clips, seed), score_cross_pairs(clips, seed)

    def by(key: Callable[[ClipEntry], str]) -> dict[str, GroupResult]:
        keys = np.array([key(clip.entry) for clip in clips])
        names = sorted(set(keys[np.unique(scores.clip)]))
        return {name: _group(scores, keys[scores.clip] == name, threshold) for name in names}

    offsets = np.array([estimate_offset(clip) for clip in clips])
    return {
        "model": model,
        "clips": len(clips),
        "left_out": [{"clip": name, "reason": reason} for name, reason in skipped.items()],
        "speakers": len({clip.entry.speaker for clip in clips}),
        "seed": seed,
        "protocol": f"pairs: same clip, at least {MIN_SHIFT} frames away, balanced; retrieval@K: ±1 frame among 31; "
        "detection: the negatives of pairs alone",
        "pairs": summarise_pairs(scores, threshold, seed),
        "cross_speaker": summarise_pairs(cross, threshold, seed) if cross else None,
        "detection": summarise_detection(scores, threshold, seed),
        "calibration": summarise_calibration(scores, calibration, seed) if calibration else None,
        "voiced": _group(scores, scores.voiced, threshold) if scores.voiced.any() else None,
        "unvoiced": _group(scores, ~scores.voiced, threshold) if (~scores.voiced).any() else None,
        "retrieval": summarise_retrieval(clips, seed),
        "offset_within_1": round(float((np.abs(offsets) <= TOLERANCE).mean()), 4),
        "by_corpus": by(lambda entry: entry.corpus),
        "by_language": by(lambda entry: entry.language),
    }


def _group(scores: PairScores, mask: NDArray[np.bool_], threshold: float) -> GroupResult:
    part = scores.where(mask)
    area = area_under_curve(part.positive, part.negative)
    return {"accuracy": round(accuracy_at(part, threshold), 4), "auc": round(area, 4), "n": 2 * len(part.positive)}


def eval_table(report: ProtocolResult) -> str:
    """Report as text."""
    pairs, cross, detection = report["pairs"], report["cross_speaker"], report["detection"]
    lines = [f"skipped {clip['clip']}: {clip['reason']}" for clip in report["left_out"]]
    more = f" ({len(report['left_out'])} more skipped)" if report["left_out"] else ""
    lines += [
        f"{report['model']}: {report['clips']} clips{more}, {report['speakers']} speakers, {pairs['n']} pairs",
        f"pairs        accuracy {pairs['accuracy']:.3f} {pairs['ci95']} at {pairs['threshold']}",
        f"             accuracy {pairs['accuracy_at_0.5']:.3f} {pairs['ci95_accuracy_at_0.5']} at 0.5",
        f"             AUC      {pairs['auc']:.3f} {pairs['ci95_auc']}",
    ]
    if cross:
        lines.append(f"cross speaker accuracy {cross['accuracy']:.3f} {cross['ci95']}  AUC {cross['auc']:.3f}")
    lines.append(f"detection    accuracy {detection['accuracy']:.3f} {detection['ci95']} of {detection['n']} negatives")
    calibration = report["calibration"]
    if calibration:
        lines.append(
            f"calibration  error    {calibration['error']:.3f} {calibration['ci95_error']}, "
            f"{calibration['error_of_score']:.3f} before"
        )
    for frames, row in report["retrieval"].items():
        lines.append(f"retrieval@{frames:<2} accuracy {row['accuracy']:.3f} {row['ci95']} of {row['n']}")
    lines.append(f"clips with the right offset ±1: {report['offset_within_1']:.3f}")
    groups = {
        "voiced": report["voiced"],
        "unvoiced": report["unvoiced"],
        **report["by_corpus"],
        **report["by_language"],
    }
    for name, group in groups.items():
        if group:
            lines.append(f"  {name:22} accuracy {group['accuracy']:.3f}  AUC {group['auc']:.3f}  of {group['n']}")
    return "\n".join(lines)
