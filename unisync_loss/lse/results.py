"""Types of the JSON that ``unisync lse`` writes, and the same results as CSV and as text.

Offsets are in frames of 40 ms, positive = audio is late: the reverse of the original's sign. ``_valid``: without the
original's zero padding, see :mod:`unisync_loss.lse.distances`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

MEASURES = ("lse_d", "lse_c", "lse_d_valid", "lse_c_valid")
COLUMNS = ("video", "variant", "track", "start", "frames", *MEASURES, "offset", "offset_valid", "skipped")


class LseMeasures(TypedDict):
    """LSE-D and LSE-C with zero padding and without."""

    lse_d: float
    lse_c: float
    lse_d_valid: float
    lse_c_valid: float


class LseTrack(LseMeasures):
    """Measures of one face track, or of the whole image of a video."""

    track: int
    start: float  # seconds
    frames: int
    offset: int
    offset_valid: int


class LseVideo(LseMeasures):
    """Measures of a video: means over its tracks, and an offset (see ``measure_video``)."""

    video: str
    variant: str
    offset: int
    offset_valid: int
    notes: list[str]  # remarks on the sound
    tracks: list[LseTrack]


class SkippedVideo(TypedDict):
    """Video that could not be measured."""

    video: str
    reason: str


class LseMeans(LseMeasures):
    """Means over ``"tracks"`` or ``"videos"``."""

    over: str


class LseReport(TypedDict):
    """JSON of ``unisync lse``."""

    variant: str
    weights_sha256: str
    n_videos: int
    n_tracks: int
    n_skipped: int
    means: LseMeans | None  # None when no video could be measured
    videos: list[LseVideo]
    skipped: list[SkippedVideo]


def average(rows: Sequence[LseMeasures]) -> LseMeasures:
    """Mean of each measure."""
    return {
        "lse_d": float(np.mean([row["lse_d"] for row in rows])),
        "lse_c": float(np.mean([row["lse_c"] for row in rows])),
        "lse_d_valid": float(np.mean([row["lse_d_valid"] for row in rows])),
        "lse_c_valid": float(np.mean([row["lse_c_valid"] for row in rows])),
    }


def lse_csv(report: LseReport) -> str:
    """CSV with one row per track, and one per skipped video with the reason."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for video in report["videos"]:
        writer.writerows({"video": video["video"], "variant": report["variant"], **track} for track in video["tracks"])
    for skipped in report["skipped"]:
        writer.writerow({"video": skipped["video"], "variant": report["variant"], "skipped": skipped["reason"]})
    return text.getvalue()


def lse_table(report: LseReport) -> str:
    """Report as text."""
    lines = [f"LSE by the procedure {report['variant']}; offset in frames, positive = audio late (40 ms each)"]
    lines.append("  LSE-D    LSE-C   offset | without zero padding: LSE-D, LSE-C, offset")
    for video in report["videos"]:
        for row in video["tracks"]:
            padded = f"{row['lse_d']:7.3f}  {row['lse_c']:7.3f}  {row['offset']:+4d}"
            valid = f"{row['lse_d_valid']:7.3f}  {row['lse_c_valid']:7.3f}  {row['offset_valid']:+4d}"
            lines.append(f"{padded}   |{valid}   {video['video']} at {row['start']} s")
        lines += [f"{video['video']}: {note}" for note in video["notes"]]
    lines += [f"skipped {skipped['video']}: {skipped['reason']}" for skipped in report["skipped"]]
    means = report["means"]
    if means:
        lines.append(
            f"means over {means['over']}: LSE-D {means['lse_d']:.3f}, LSE-C {means['lse_c']:.3f}; without zero padding "
            f"{means['lse_d_valid']:.3f}, {means['lse_c_valid']:.3f}"
        )
    lines.append(f"{report['n_videos']} videos, {report['n_tracks']} tracks, {report['n_skipped']} skipped")
    return "\n".join(lines)
