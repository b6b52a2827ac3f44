"""Generated videos against the real ones they were made from: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unisync_loss.evaluation.bootstrap import mean_ci

#: what is compared, with the direction that is better
MEASURES = {"probability_mean": "higher", "share_in_sync": "higher", "confidence": "higher", "offset_distance": "lower"}


def compare(
    real: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[Mapping[str, Any]]], seed: int = 0
) -> list[dict[str, Any]]:
    """Compare groups of generated videos with their real twins, video by video.

    Each counts by the face that speaks, or the first one; pairs of which one could not be scored are left out.
    ``offset_distance`` is how many frames the offset is from 0.

    Args:
        real: judged videos with their ``group``, the path they were found by.
        groups: the same of generated ones, by name of the group.
        seed: of the paired bootstrap over videos.

    Returns:
        For every group ``{"group", "pairs", "unpaired", "measures"}``; a measure has the means ``real`` and
        ``generated``, their ``difference`` (generated less real), its ``ci95`` (null for a single pair) and which
        direction is ``better``. No measures where no pair is left.

    Raises:
        ValueError: see :func:`find_twins`.
    """
    values = {video["video"]: _values(video) for videos in (real, *groups.values()) for video in videos}
    rows = []
    for name, videos in groups.items():
        twins = ((values[theirs], values[made]) for made, theirs in find_twins(real, videos).items())
        pairs = [(truth, made) for truth, made in twins if truth and made]
        rows.append(
            {
                "group": name,
                "pairs": len(pairs),
                "unpaired": len(videos) - len(pairs),
                "measures": {measure: _difference(pairs, measure, seed) for measure in MEASURES} if pairs else {},
            }
        )
    return rows


def find_twins(real: Sequence[Mapping[str, Any]], made: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which real video each generated one stands beside.

    Videos pair by name without folder and suffix. Where a name comes more than once on either side (``ID/0001.mp4`` of
    LRS3), they pair by their paths below the folder that was given. A single file pairs with a single file.

    Args:
        real: ``{"video": path, "group": the path it was found by}`` each.
        made: the same of one group.

    Returns:
        The real video by the generated one, in order of their names.

    Raises:
        ValueError: when two videos differ in nothing but the suffix, or none has a twin.
    """
    if len(real) == len(made) == 1:
        return {made[0]["video"]: real[0]["video"]}
    for key in (_name, _place):
        theirs, ours = ({key(video): video["video"] for video in side} for side in (real, made))
        if (len(theirs), len(ours)) == (len(real), len(made)):
            break
    else:
        side, known = (made, ours) if len(ours) < len(made) else (real, theirs)
        twice = next(_place(video) for video in side if known[_place(video)] != video["video"])
        raise ValueError(f"compare: expected names that differ by more than the suffix, got {twice} more than once")
    if not ours.keys() & theirs.keys():
        wanted, came = (", ".join(sorted(some)[:3]) for some in (theirs, ours))
        raise ValueError(f"{made[0]['group']}: expected videos named as the real ones ({wanted}), got {came}")
    return {ours[key]: theirs[key] for key in sorted(ours) if key in theirs}


def _difference(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], measure: str, seed: int
) -> dict[str, Any]:
    values = np.array([[truth[measure], made[measure]] for truth, made in pairs])
    change = values[:, 1] - values[:, 0]
    return {
        "real": round(float(values[:, 0].mean()), 4),
        "generated": round(float(values[:, 1].mean()), 4),
        "difference": round(float(change.mean()), 4),
        "ci95": [round(end, 4) for end in mean_ci(change, seed=seed)] if len(pairs) > 1 else None,
        "better": MEASURES[measure],
    }


def _name(video: Mapping[str, Any]) -> str:
    return Path(video["video"]).stem


def _place(video: Mapping[str, Any]) -> str:
    path, given = Path(video["video"]), Path(video["group"])
    return (path.relative_to(given) if path != given else Path(path.name)).with_suffix("").as_posix()


def _values(video: Mapping[str, Any]) -> dict[str, float] | None:
    """What is compared; None for a video that was not scored, or has no sound at the offset that is judged."""
    if "tracks" not in video:
        return None
    track = video["tracks"][video["speaker_track"] or 0]
    if track["probability_mean"] is None:
        return None
    return {name: float(track[name]) for name in MEASURES if name in track} | {
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
