"""The protocols ``pairs`` (also across speakers), ``detection`` and ``retrieval@K``, summed up with intervals.

They take clips as any expert sees them: embeddings, or windows with a score of their own (``ClipEmbedding.score``).
``detection`` looks at the negatives of ``pairs`` alone: the share called out of sync, which is what Wav2Lip's "91 %" is
(its author, issue 111). A model that calls everything out of sync scores 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisync_loss.data.clips import ClipEntry
from unisync_loss.evaluation.embeddings import ClipEmbedding
from unisync_loss.evaluation.offsets import MIN_SHIFT, TOLERANCE
from unisync_loss.evaluation.protocols import (
    accuracy_at,
    area_under_curve,
    estimate_offset,
    score_cross_pairs,
    score_pairs,
    summarise_detection,
    summarise_pairs,
    summarise_retrieval,
)


def summarise(
    clips: Sequence[ClipEmbedding],
    model: str,
    threshold: float,
    seed: int,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that ``unisync eval`` writes but the expert's kind, for any expert or peer.

    Args:
        clips: embedded clips.
        model: name of what embedded them.
        threshold: score above which it calls a window in sync, chosen on other clips
            (:func:`unisync_loss.evaluation.protocols.best_threshold`).
        seed: of pairs and intervals.
        left_out: name and reason of clips that could not be embedded.

    Returns:
        The report, ready for JSON.

    Raises:
        ValueError: when there is no clip, or none long enough.
    """
    left_out = left_out or {}
    if not clips:
        first = next((f": {name}: {reason}" for name, reason in left_out.items()), "")
        raise ValueError(f"none of {len(left_out)} clips could be embedded{first}")
    scores, cross = score_pairs(clips, seed), score_cross_pairs(clips, seed)

    def brief(mask: NDArray[np.bool_]) -> dict[str, Any]:
        part = scores.where(mask)
        area = area_under_curve(part.positive, part.negative)
        return {"accuracy": round(accuracy_at(part, threshold), 4), "auc": round(area, 4), "n": 2 * len(part.positive)}

    def by(key: Callable[[ClipEntry], str]) -> dict[str, Any]:
        keys = np.array([key(clip.entry) for clip in clips])
        return {name: brief(keys[scores.clip] == name) for name in sorted(set(keys[np.unique(scores.clip)]))}

    offsets = np.array([estimate_offset(clip) for clip in clips])
    return {
        "model": model,
        "clips": len(clips),
        "left_out": [{"clip": name, "reason": reason} for name, reason in left_out.items()],
        "speakers": len({clip.entry.speaker for clip in clips}),
        "seed": seed,
        "protocol": f"pairs: same clip, at least {MIN_SHIFT} frames away, balanced; retrieval@K: ±1 frame among 31; "
        "detection: the negatives of pairs alone",
        "pairs": summarise_pairs(scores, threshold, seed),
        "cross_speaker": summarise_pairs(cross, threshold, seed) if cross else None,
        "detection": summarise_detection(scores, threshold, seed),
        "voiced": brief(scores.voiced) if scores.voiced.any() else None,
        "unvoiced": brief(~scores.voiced) if (~scores.voiced).any() else None,
        "retrieval": summarise_retrieval(clips, seed),
        "offset_within_1": round(float((np.abs(offsets) <= TOLERANCE).mean()), 4),
        "by_corpus": by(lambda entry: entry.corpus),
        "by_language": by(lambda entry: entry.language),
    }


def report_table(report: dict[str, Any]) -> str:
    """The report of ``eval`` as text."""
    pairs = report["pairs"]
    lines = [f"left out {row['clip']}: {row['reason']}" for row in report["left_out"]]
    without = f" ({len(report['left_out'])} more left out)" if report["left_out"] else ""
    lines += [
        f"{report['model']}: {report['clips']} clips{without}, {report['speakers']} speakers, {pairs['n']} pairs",
        f"pairs        accuracy {pairs['accuracy']:.3f} {pairs['ci95']} at {pairs['threshold']}",
        f"             accuracy {pairs['accuracy_at_0.5']:.3f} {pairs['ci95_accuracy_at_0.5']} at 0.5",
        f"             AUC      {pairs['auc']:.3f} {pairs['ci95_auc']}",
    ]
    if report["cross_speaker"]:
        row = report["cross_speaker"]
        lines.append(f"other voices accuracy {row['accuracy']:.3f} {row['ci95']}  AUC {row['auc']:.3f}")
    row = report["detection"]
    lines.append(f"detection    accuracy {row['accuracy']:.3f} {row['ci95']} of {row['n']} negatives")
    for frames, row in report["retrieval"].items():
        lines.append(f"retrieval@{frames:<2} accuracy {row['accuracy']:.3f} {row['ci95']} of {row['n']}")
    lines.append(f"clips with the right offset ±1: {report['offset_within_1']:.3f}")
    parts = {"voiced": report["voiced"], "unvoiced": report["unvoiced"], **report["by_corpus"], **report["by_language"]}
    for name, row in parts.items():
        if row:
            lines.append(f"  {name:22} accuracy {row['accuracy']:.3f}  AUC {row['auc']:.3f}  of {row['n']}")
    return "\n".join(lines)
