"""Generated videos against the real ones they were made from: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unisync_loss.offsets import BOOTSTRAPS

#: what is compared, with the direction that is better
MEASURES = {"probability_mean": "higher", "share_in_sync": "higher", "confidence": "higher", "offset_distance": "lower"}


def compare(
    real: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[Mapping[str, Any]]], seed: int = 0
) -> list[dict[str, Any]]:
    """Compare groups of generated videos with their real twins, video by video.

    Videos pair by name without folder and suffix; a single file pairs with a single file. Each counts by the face that
    speaks, or the first one. ``offset_distance`` is how many frames the offset is from 0.

    Args:
        real: judged videos.
        groups: judged videos by name of the group.
        seed: of the paired bootstrap over videos.

    Returns:
        For every group ``{"group", "pairs", "unpaired", "measures"}``; a measure has the means ``real`` and
        ``generated``, their ``difference`` (generated less real), its ``ci95`` (null for a single pair) and which
        direction is ``better``.

    Raises:
        ValueError: when no video of a group has a twin.
    """
    twins = {_key(video): _values(video) for video in real if "tracks" in video}
    rows = []
    for name, videos in groups.items():
        scored = {_key(video): _values(video) for video in videos if "tracks" in video}
        if len(real) == len(videos) == len(scored) == len(twins) == 1:
            pairs = [(next(iter(twins.values())), next(iter(scored.values())))]
        else:
            pairs = [(twins[key], scored[key]) for key in sorted(scored) if key in twins]
        if not pairs:
            wanted, came = (", ".join(sorted(some)[:3]) or "none scored" for some in (twins, scored))
            raise ValueError(f"{name}: expected scored videos named as the real ones ({wanted}), got {came}")
        rows.append(
            {
                "group": name,
                "pairs": len(pairs),
                "unpaired": len(videos) - len(pairs),
                "measures": {measure: _difference(pairs, measure, seed) for measure in MEASURES},
            }
        )
    return rows


def _difference(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], measure: str, seed: int
) -> dict[str, Any]:
    values = np.array([[truth[measure], made[measure]] for truth, made in pairs])
    change = values[:, 1] - values[:, 0]
    drawn = np.random.default_rng(seed).integers(len(pairs), size=(BOOTSTRAPS, len(pairs)))
    interval = np.percentile(change[drawn].mean(1), [2.5, 97.5])
    return {
        "real": round(float(values[:, 0].mean()), 4),
        "generated": round(float(values[:, 1].mean()), 4),
        "difference": round(float(change.mean()), 4),
        "ci95": [round(float(end), 4) for end in interval] if len(pairs) > 1 else None,
        "better": MEASURES[measure],
    }


def _key(video: Mapping[str, Any]) -> str:
    return Path(str(video["video"])).stem


def _values(video: Mapping[str, Any]) -> dict[str, float]:
    track = video["tracks"][video["speaker_track"] or 0]
    values = {name: track[name] for name in MEASURES if name in track}
    return {name: float(value or 0) for name, value in values.items()} | {
        "offset_distance": float(abs(track["offset_frames"]))
    }


def comparison_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison for people."""
    lines = []
    for row in rows:
        lines.append(f"{row['group']} against real: {row['pairs']} pairs, {row['unpaired']} without a twin")
        for name, values in row["measures"].items():
            interval = f" {values['ci95']}" if values["ci95"] else ""
            lines.append(
                f"  {name:17} {values['generated']:.3f} against {values['real']:.3f}, "
                f"difference {values['difference']:+.3f}{interval} ({values['better']} is better)"
            )
    return "\n".join(lines)
