"""Audio offset correction: an expert estimates the offset of every clip; ``offsets.csv`` and ``align.jsonl`` hold it.

Everything that reads a folder or a store honours ``offsets.csv``: audio is shifted by samples when a clip is read. The
media files never change, so a better expert can start from them again.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from unisync_loss.curation.offset_curves import Curve, add_curves, centred_offset_curve, find_peak, halves_differ
from unisync_loss.curation.offset_model import OffsetTree, outliers
from unisync_loss.data.clips import ClipEntry, check_visual, list_clips, read_offsets
from unisync_loss.evaluation.embeddings import embed_clips
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import to_json, write_atomically
from unisync_loss.utils.progress import Progress

CONFIDENT_Z = 1.0  # of a peak that is trusted: of 74 clips shifted at random, 95 % of those above were right
SMALLEST = 0.5  # frames; smaller offsets are left as they are, because labels and experts are no more precise
_LARGEST_SD = 0.75  # frames, of an offset that is applied: 95 % of such are within 1.5 frames of the true one
_OUTLIER_Z = 3.0  # of a peak that is trusted although it is far from all others of its corpus
_LONG = 75  # windows, 3 s: a clip of that length without a peak of its own is at fault itself
_NOISE = 0.73  # variance of a peak times windows, where fewer than ten clips are there to measure it


@dataclass(frozen=True)
class AlignmentExpert:
    """An expert and the clips whose offset it may estimate.

    Attributes:
        name: for the report.
        expert: in eval mode.
        unseen: names of the clips that it was not trained on; None for all.
    """

    name: str
    expert: UniSyncExpert
    unseen: frozenset[str] | None = None

    def may_estimate(self, entry: ClipEntry) -> bool:
        """Whether the expert was not trained on the clip."""
        return self.unseen is None or entry.name in self.unseen


@dataclass(frozen=True)
class Decision:
    """Offset of one clip; a line of ``align.jsonl``.

    Attributes:
        clip: name relative to the folder.
        offset_frames: positive = audio late; 0 below half a frame; None: the clip is skipped.
        estimate: offset before that rounding, if any.
        sd: its standard deviation in frames.
        peak_z: of the curve that the offset was estimated on, see :class:`.offset_curves.Peak`.
        level: what the offset was estimated on: ``clip``, ``video``, ``speaker``, ``corpus`` or ``none``.
        own: peak of the clip's own curve, in frames.
        windows: of the clip.
        before: offset in ``offsets.csv`` until now; 0 where there was none.
        reason: why the clip is skipped.
    """

    clip: str
    offset_frames: float | None
    estimate: float | None
    sd: float | None
    peak_z: float
    level: str
    own: float | None
    windows: int
    before: float | None
    reason: str


class AlignReport(TypedDict):
    """Counts of :func:`align`, ready for JSON.

    Attributes:
        root: the folder.
        judges: names of the experts.
        zero: corpus whose mean offset is the reference, or ``expert``.
        clips: number of clips, of which ``shifted``, ``untouched`` and ``left_out`` are the parts.
        moved: mean frames by which offsets changed since the last round; None without a clip that has both.
        corpora: of each corpus with confident clips: their number (``sure``), the reference offset (``zero``), its
            standard deviation (``sd``), and the spreads of clips, videos and speakers, in frames.
    """

    root: str
    judges: list[str]
    zero: str
    clips: int
    shifted: int
    untouched: int
    left_out: int
    moved: float | None
    corpora: dict[str, dict[str, float]]


def align(
    root: str | os.PathLike[str],
    experts: Sequence[AlignmentExpert],
    *,
    zero: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> AlignReport:
    """Estimate the audio offset of every clip of a folder or store; write ``offsets.csv`` and ``align.jsonl`` into it.

    Args:
        root: store, or folder of ``<corpus>/<speaker>/<clip>``; an ``offsets.csv`` in it is replaced.
        experts: the curves of those that were not trained on a clip are added.
        zero: corpus known to be in sync, whose mean offset is subtracted from all.
        log: takes lines of progress.

    Raises:
        ValueError: for a clip that all experts were trained on, an expert that can be applied to no clip, or a corpus
            that does not exist or has no clip with a confident offset. Nothing is written then.
        FileNotFoundError: when the folder does not exist.
    """
    root = Path(root)
    entries = list_clips(root, ignore_offsets=True)
    before = read_offsets(root / "offsets.csv")
    names = sorted({entry.corpus for entry in entries})
    if zero not in (None, *names):
        raise ValueError(f"zero: expected one of {names}, got {zero!r}")
    for entry in entries:
        if not any(expert.may_estimate(entry) for expert in experts):
            raise ValueError(f"{entry.name}: expected an expert not trained on it, got {len(experts)} that all were")
    for each in experts:
        check_visual(each.expert.config, entries)
    curves, problems = read_curves(entries, experts, log)
    if not any(curves):  # otherwise an audio model that is missing would replace all offsets by empty ones
        raise ValueError(f"{root}: none of {len(entries)} clips could be read; {entries[0].name}: {problems[0]}")
    decisions, corpora = decide(entries, curves, problems, before)
    if zero is not None:
        if zero not in corpora:
            raise ValueError(f"zero: expected a corpus with confident clips, got {zero}, which has none")
        decisions = subtract_zero(decisions, corpora[zero]["zero"])
    write_decisions(root, decisions)
    known = [row for row in decisions if row.offset_frames is not None and row.before is not None]
    moves = [abs((row.offset_frames or 0.0) - (row.before or 0.0)) for row in known]
    return {
        "root": str(root),
        "judges": [expert.name for expert in experts],
        "zero": zero or "expert",
        "clips": len(decisions),
        "shifted": sum(bool(row.offset_frames) for row in decisions),
        "untouched": sum(row.offset_frames == 0 for row in decisions),
        "left_out": sum(row.offset_frames is None for row in decisions),
        "moved": round(float(np.mean(moves)), 3) if moves else None,
        "corpora": corpora,
    }


def subtract_zero(decisions: Sequence[Decision], zero: float) -> list[Decision]:
    """Subtract a reference offset in frames from every estimate."""
    moved = []
    for row in decisions:
        if row.estimate is not None:
            value = row.estimate - zero
            row = replace(row, offset_frames=round_offset(value), estimate=round(value, 3))
        moved.append(row)
    return moved


def round_offset(value: float) -> float:
    """Offset in frames as it is written: two decimals, 0 below half a frame."""
    return 0.0 if abs(value) < SMALLEST else round(value, 2)  # a hundredth of a frame is 0.4 ms


def read_curves(
    entries: Sequence[ClipEntry], experts: Sequence[AlignmentExpert], log: Callable[[str], None]
) -> tuple[list[Curve | None], list[str]]:
    """Curve of every clip without its stored offset, None where it cannot be read, and the reason."""
    curves: list[Curve | None] = []
    problems: list[str] = []
    progress = Progress(log, len(entries), "clips")
    for number, entry in enumerate(entries, 1):
        try:
            fit = [each.expert for each in experts if each.may_estimate(entry)]
            clips = [next(embed_clips(expert, [entry], isolated=True)) for expert in fit]
            curves.append(add_curves([centred_offset_curve(clip.audio, clip.visual) for clip in clips]))
            problems.append("")
        except (ValueError, OSError) as error:
            curves.append(None)
            problems.append(str(error))
        progress.update(number)
    return curves, problems


def video_of(entry: ClipEntry) -> str:
    """Source video of a clip: from the store, or the file's name without the number of the cut."""
    if entry.record is not None:
        return str(entry.record.facts.get("source", entry.name))
    return re.sub(r"[_-]\d{1,3}$", "", entry.name.rsplit(".", 1)[0])  # HDTF: WDA_Name0_000, the 1st cut of WDA_Name0


def decide(
    entries: Sequence[ClipEntry],
    curves: Sequence[Curve | None],
    problems: Sequence[str],
    before: dict[str, float | None],
) -> tuple[list[Decision], dict[str, dict[str, float]]]:
    """Derive offsets from curves, corpus by corpus.

    Args:
        entries: clips.
        curves: of each; None where it could not be read.
        problems: the reason.
        before: offsets by clip name until now.

    Returns:
        One decision per clip, in order, and the ``corpora`` of :class:`AlignReport`.
    """
    # over all corpora: noise is a property of the expert, spreads are one of the corpus
    noise = measure_noise([curve for curve in curves if curve is not None])
    rows: dict[int, _Estimate] = {}
    corpora: dict[str, dict[str, float]] = {}
    for corpus in sorted({entry.corpus for entry in entries}):
        mine = [i for i, entry in enumerate(entries) if entry.corpus == corpus and curves[i] is not None]
        found, facts = _estimate_corpus(
            [entries[i] for i in mine], [curve for i in mine if (curve := curves[i]) is not None], noise
        )
        rows |= dict(zip(mine, found, strict=True))
        if facts:
            corpora[corpus] = facts
    unread = _Estimate(None, None, 0.0, "none", None, 0, "")
    decisions = []
    for index, entry in enumerate(entries):
        row = rows.get(index, unread)
        decisions.append(
            Decision(
                clip=entry.name,
                offset_frames=None if row.value is None else round_offset(row.value),
                estimate=None if row.value is None else round(row.value, 3),
                sd=None if row.sd is None else round(row.sd, 3),
                peak_z=round(row.z, 2),
                level=row.level,
                own=None if row.own is None else round(row.own, 2),
                windows=row.windows,
                before=before.get(entry.name, 0.0),
                reason=problems[index] or row.reason,
            )
        )
    return decisions, corpora


def measure_noise(curves: Sequence[Curve]) -> float:
    """Variance of a confident peak times the number of windows, from the difference between halves of clips."""
    confident = [curve for curve in curves if find_peak(curve.mean).z >= CONFIDENT_Z]
    # each half has half the windows: the difference has four times the variance of the whole
    squares = [curve.windows * halves_differ(curve) ** 2 / 4 for curve in confident]
    # the median is robust to clips of two voices; 0.455 is the median of a squared standard Gaussian
    return max(float(np.median(squares)) / 0.455, 0.1) if len(squares) >= 10 else _NOISE


class _Estimate(NamedTuple):
    value: float | None
    sd: float | None
    z: float
    level: str
    own: float | None
    windows: int
    reason: str


def _estimate_corpus(
    entries: list[ClipEntry], curves: list[Curve], noise: float
) -> tuple[list[_Estimate], dict[str, float]]:
    peaks = [find_peak(curve.mean) for curve in curves]
    confident = [i for i, peak in enumerate(peaks) if peak.z >= CONFIDENT_Z]
    # a mistaken peak lies anywhere within ±15 frames, most offsets of a corpus within a few frames of each other
    far = outliers(np.array([peaks[i].offset for i in confident]))
    confident = [i for i, is_far in zip(confident, far, strict=True) if not is_far or peaks[i].z >= _OUTLIER_Z]
    videos, speakers = [video_of(entry) for entry in entries], [entry.speaker for entry in entries]
    tree = OffsetTree(
        np.array([peaks[i].offset for i in confident]),
        np.array([noise / curves[i].windows for i in confident]),
        [videos[i] for i in confident],
        [speakers[i] for i in confident],
    )
    smoothed = dict(zip(confident, zip(*tree.clips, strict=True), strict=True))
    of_video: dict[str, list[Curve]] = {}
    for video, curve in zip(videos, curves, strict=True):
        of_video.setdefault(video, []).append(curve)
    # cuts of one video share its offset: together they may have a clear peak where none has one of its own
    pooled = {video: add_curves(parts) for video, parts in of_video.items() if len(parts) > 1}
    rows = []
    for index, (peak, curve) in enumerate(zip(peaks, curves, strict=True)):
        level, value, variance, z = "clip", *smoothed.get(index, (0.0, math.inf)), peak.z
        if index not in smoothed:
            together = find_peak(pooled[videos[index]].mean) if videos[index] in pooled else None
            if together is not None and together.z >= CONFIDENT_Z:
                level, value, z = "video", together.offset, together.z
                # of the video's offset, and of a clip around it
                variance = noise / pooled[videos[index]].windows + tree.spreads[0]
            elif curve.windows < _LONG and peak.z < CONFIDENT_Z:
                level, value, variance = tree.infer(speakers[index])
        if math.sqrt(variance) <= _LARGEST_SD:  # a clip that is skipped costs less than one with a wrong label
            rows.append(_Estimate(float(value), math.sqrt(variance), z, level, peak.offset, curve.windows, ""))
        else:
            cause = ": another speaker, music, noise or a hidden mouth" if curve.windows >= _LONG else ""
            reason = f"no clear offset{cause}"
            rows.append(_Estimate(None, None, z, "none", peak.offset, curve.windows, reason))
    return rows, tree.facts()


def report_lines(report: AlignReport) -> str:
    """Format a report as text, one line per corpus and one in all."""
    lines = [
        f"{corpus}: reference offset {row['zero']:+.2f} ± {row['sd']:.2f} frames, {row['sure']} confident clips"
        for corpus, row in report["corpora"].items()
    ]
    moved = "" if report["moved"] is None else f"; mean change {report['moved']} frames"
    lines.append(
        f"{Path(report['root'], 'offsets.csv')}: {report['shifted']} of {report['clips']} clips shifted, "
        f"{report['untouched']} unchanged, {report['left_out']} skipped{moved}"
    )
    return "\n".join(lines)


def write_decisions(root: Path, decisions: Sequence[Decision]) -> None:
    """Write ``offsets.csv`` and ``align.jsonl`` atomically."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("clip", "offset_frames", "peak_z", "level"))
    for row in decisions:
        offset = "" if row.offset_frames is None else f"{row.offset_frames:g}"
        writer.writerow((row.clip, offset, f"{row.peak_z:.2f}", row.level))
    lines = "".join(to_json(asdict(row)) for row in decisions)
    for path, text in ((root / "align.jsonl", lines), (root / "offsets.csv", table.getvalue())):
        write_atomically(path, text)
