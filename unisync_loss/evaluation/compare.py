"""Paired comparison of generated videos with the real videos they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unisync_loss.evaluation.bootstrap import mean_ci
from unisync_loss.evaluation.results import Comparison, Difference, VideoResult

#: measures that are compared, with the direction that is better
MEASURES = {"probability_mean": "higher", "share_in_sync": "higher", "confidence": "higher", "offset_distance": "lower"}


class NamedVideo(NamedTuple):
    """Video and the path that it was found by: a folder, or the video itself."""

    video: str
    group: str

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return Path(self.video).stem

    @property
    def place(self) -> str:
        """Path below the group, without suffix."""
        path, group = Path(self.video), Path(self.group)
        return (path.relative_to(group) if path != group else Path(path.name)).with_suffix("").as_posix()


def compare(
    real: Sequence[VideoResult], groups: Mapping[str, Sequence[VideoResult]], seed: int = 0
) -> list[Comparison]:
    """Compare groups of generated videos with the real videos, paired by file name.

    Each video counts by its speaking face, or by the first one; a pair of which one video could not be scored is
    skipped. ``offset_distance`` is the absolute offset in frames.

    Args:
        real: results of the real videos, with their ``group``.
        groups: results of generated videos, by name of the group.
        seed: of the bootstrap over pairs.

    Returns:
        One row per group; without measures where no pair is left.

    Raises:
        ValueError: see :func:`pair_videos`.
    """
    values = {video["video"]: _values(video) for videos in (real, *groups.values()) for video in videos}
    rows: list[Comparison] = []
    for name, videos in groups.items():
        named = pair_videos(*([NamedVideo(row["video"], row["group"]) for row in side] for side in (real, videos)))
        both = ((values[reference], values[generated]) for generated, reference in named.items())
        pairs = [(reference, generated) for reference, generated in both if reference and generated]
        rows.append(
            {
                "group": name,
                "pairs": len(pairs),
                "unpaired": len(videos) - len(pairs),
                "measures": {measure: _difference(pairs, measure, seed) for measure in MEASURES} if pairs else {},
            }
        )
    return rows


def pair_videos(real: Sequence[NamedVideo], generated: Sequence[NamedVideo]) -> dict[str, str]:
    """Pair generated videos with real ones by file name.

    Videos pair by name without folder and suffix. Where a name occurs more than once on either side (``ID/0001.mp4`` of
    LRS3), they pair by their paths below the folder that was given. A single file pairs with a single file.

    Args:
        real: the real videos.
        generated: videos of one group.

    Returns:
        The real video of each generated one that has one, in order of names.

    Raises:
        ValueError: when two videos of one side differ only in the suffix, or no video has a pair.
    """
    if len(real) == len(generated) == 1:
        return {generated[0].video: real[0].video}
    for key in ("stem", "place"):
        theirs, ours = ({getattr(row, key): row.video for row in side} for side in (real, generated))
        if (len(theirs), len(ours)) == (len(real), len(generated)):
            break
    else:
        side, known = (generated, ours) if len(ours) < len(generated) else (real, theirs)
        twice = next(row.place for row in side if known[row.place] != row.video)
        raise ValueError(f"compare: expected names that differ by more than the suffix, got {twice} more than once")
    if not ours.keys() & theirs.keys():
        expected, got = (", ".join(sorted(names)[:3]) for names in (theirs, ours))
        raise ValueError(f"{generated[0].group}: expected videos named as the real ones ({expected}), got {got}")
    return {ours[key]: theirs[key] for key in sorted(ours) if key in theirs}


def _difference(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], measure: str, seed: int
) -> Difference:
    values = np.array([[reference[measure], generated[measure]] for reference, generated in pairs])
    change = values[:, 1] - values[:, 0]
    return {
        "real": round(float(values[:, 0].mean()), 4),
        "generated": round(float(values[:, 1].mean()), 4),
        "difference": round(float(change.mean()), 4),
        "ci95": [round(end, 4) for end in mean_ci(change, seed=seed)] if len(pairs) > 1 else None,
        "better": MEASURES[measure],
    }


def _values(video: VideoResult) -> dict[str, float] | None:
    """Measures of a video; None for one without a score, or without audio at offset 0."""
    if "error" in video:
        return None
    track = video["tracks"][video["speaker_track"] or 0]
    if track["probability_mean"] is None or track["share_in_sync"] is None:
        return None
    return {
        "probability_mean": track["probability_mean"],
        "share_in_sync": track["share_in_sync"],
        "confidence": track["confidence"],
        "offset_distance": float(abs(track["offset_frames"])),
    }


def comparison_table(rows: Sequence[Comparison]) -> str:
    """Comparison as text."""
    lines = []
    for row in rows:
        lines.append(f"{row['group']} against real: {row['pairs']} pairs, {row['unpaired']} unpaired")
        for name, values in row["measures"].items():
            interval = f" {values['ci95']}" if values["ci95"] else ""
            lines.append(
                f"  {name:17} {values['generated']:.3f} against {values['real']:.3f}, "
                f"difference {values['difference']:+.3f}{interval} ({values['better']} is better)"
            )
    return "\n".join(lines)
