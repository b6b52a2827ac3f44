"""Put clips into sync: an offset for each by an expert, written as ``offsets.csv``, every decision logged.

``offsets.csv`` is honoured by whatever reads a folder or a store: the sound is shifted by samples when a clip is read,
the files stay as found, and a better expert can start again from them.
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
from typing import Any

import numpy as np

from unisync_loss.curation.offset_curves import Curve, add_curves, centred_offset_curve, find_peak, halves_differ
from unisync_loss.curation.offset_model import OffsetTree, stand_out
from unisync_loss.data.clips import ClipEntry, list_clips, read_offsets
from unisync_loss.evaluation.embeddings import embed_clips
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import to_json, write_atomically
from unisync_loss.utils.progress import Progress

SURE = 1.0  # margin from which a peak is believed: of 74 clips shifted at random, 95 % of those above were right
SMALL = 0.5  # frames: what is less is left as it is; labels and experts are no more certain than that
_DOUBT = 0.75  # frames: largest standard deviation of an offset that is only inferred from other clips
_STRANGE = 3.0  # margin from which a peak is believed that is far from all others of its corpus
_LONG = 75  # windows: a clip as long as that has its own peak, or something is wrong with it
_NOISE = 0.73  # variance of a peak times windows, where too few clips are there to measure it


@dataclass(frozen=True)
class Judge:
    """An expert and what it may judge.

    Attributes:
        name: for the log.
        expert: in eval mode.
        unseen: names of the clips that it was not trained on; None for all.
    """

    name: str
    expert: UniSyncExpert
    unseen: frozenset[str] | None = None


@dataclass(frozen=True)
class Decision:
    """What became of a clip.

    Attributes:
        clip: name relative to the folder.
        offset_frames: audio late by so much; 0 for what is smaller than SMALL; None: leave the clip out.
        estimate: offset before that rounding, if any.
        sd: its standard deviation, frames.
        confidence: margin of the peak of the curve that it was estimated on, see `clip_offsets.Peak`.
        level: ``clip``, ``video``, ``speaker`` or ``corpus``: what it was estimated on; ``none``.
        own: peak of the clip's own curve.
        windows: of the clip.
        before: what ``offsets.csv`` said until now; 0 when nothing.
        reason: why it was left out.
    """

    clip: str
    offset_frames: float | None
    estimate: float | None
    sd: float | None
    confidence: float
    level: str
    own: float | None
    windows: int
    before: float | None
    reason: str


def align(
    root: str | os.PathLike[str],
    judges: Sequence[Judge],
    *,
    zero: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Estimate the offset of every clip of a folder or store, and write ``offsets.csv`` and ``align.jsonl`` into it.

    Args:
        root: store, or folder of ``<corpus>/<speaker>/<clip>``, judged as found.
        judges: experts; those that have not seen a clip judge it together.
        zero: name of a corpus known to be in sync: its mean becomes 0 for all corpora, whatever the expert's own zero.
        log: takes lines of progress.

    Returns:
        Counts ``clips``, ``shifted``, ``untouched``, ``left_out``; ``moved``, mean frames by which offsets changed
        since the last round; ``corpora``: each one's ``zero`` as the expert sees it, its ``sd``, and its spreads.

    Raises:
        ValueError: for no judge, a clip that all judges have seen, or a corpus that is not there or not sure.
            Nothing is written then.
        FileNotFoundError: when the folder does not exist.
    """
    root = Path(root)
    entries = list_clips(root, as_found=True)
    before = read_offsets(root / "offsets.csv")
    names = sorted({entry.corpus for entry in entries})
    if zero not in (None, *names):
        raise ValueError(f"zero: expected one of {names}, got {zero!r}")
    for entry in entries:
        if not any(judge.unseen is None or entry.name in judge.unseen for judge in judges):
            raise ValueError(f"{entry.name}: expected an expert that has not seen it, all {len(judges)} have")
    curves, problems = read_curves(entries, judges, log)
    decisions, corpora = decide(entries, curves, problems, before)
    if zero is not None:
        if zero not in corpora:
            raise ValueError(f"zero: expected a corpus with sure clips, {zero} has none")
        decisions = move_zero(decisions, corpora[zero]["zero"])
    write_decisions(root, decisions)
    known = [row for row in decisions if row.offset_frames is not None and row.before is not None]
    moves = [abs((row.offset_frames or 0.0) - (row.before or 0.0)) for row in known]
    return {
        "root": str(root),
        "judges": [judge.name for judge in judges],
        "zero": zero or "expert",
        "clips": len(decisions),
        "shifted": sum(bool(row.offset_frames) for row in decisions),
        "untouched": sum(row.offset_frames == 0 for row in decisions),
        "left_out": sum(row.offset_frames is None for row in decisions),
        "moved": round(float(np.mean(moves)), 3) if moves else None,
        "corpora": corpora,
    }


def move_zero(decisions: Sequence[Decision], zero: float) -> list[Decision]:
    """Decisions with the expert's zero, in frames, subtracted from every estimate."""
    moved = []
    for row in decisions:
        if row.estimate is not None:
            value = row.estimate - zero
            row = replace(row, offset_frames=settle(value), estimate=round(value, 3))
        moved.append(row)
    return moved


def settle(value: float) -> float:
    """What is written of an offset: 0 for what is less than SMALL."""
    return 0.0 if abs(value) < SMALL else round(value, 2)


def read_curves(
    entries: Sequence[ClipEntry], judges: Sequence[Judge], log: Callable[[str], None]
) -> tuple[list[Curve | None], list[str]]:
    """Curve of every clip as found, and why there is none."""
    curves: list[Curve | None] = []
    problems: list[str] = []
    progress = Progress(log, len(entries), "clips")
    for number, entry in enumerate(entries, 1):
        mine = [judge for judge in judges if judge.unseen is None or entry.name in judge.unseen]
        try:
            seen = [next(embed_clips(judge.expert, [entry])) for judge in mine]
            curves.append(add_curves([centred_offset_curve(clip.audio, clip.visual) for clip in seen]))
            problems.append("")
        except (ValueError, OSError) as error:
            curves.append(None)
            problems.append(str(error))
        progress.update(number)
    return curves, problems


def video_of(entry: ClipEntry) -> str:
    """Source video of a clip: as the store says, or the file's name without the number of the cut."""
    if entry.record is not None:
        return str(entry.record.facts.get("source", entry.name))
    return re.sub(r"[_-]\d{1,3}$", "", entry.name.rsplit(".", 1)[0])


def decide(
    entries: Sequence[ClipEntry],
    curves: Sequence[Curve | None],
    problems: Sequence[str],
    before: dict[str, float | None],
) -> tuple[list[Decision], dict[str, dict[str, float]]]:
    """Offsets from curves, corpus by corpus.

    Args:
        entries: clips.
        curves: of each, None where it could not be read.
        problems: why.
        before: offsets until now.

    Returns:
        A decision a clip, in order; and what is known of each corpus that has a sure clip.
    """
    noise = measure_noise([curve for curve in curves if curve is not None])
    rows: dict[int, _Estimate] = {}
    corpora: dict[str, dict[str, float]] = {}
    for corpus in sorted({entry.corpus for entry in entries}):
        mine = [i for i, entry in enumerate(entries) if entry.corpus == corpus and curves[i] is not None]
        found, facts = _judge_corpus([entries[i] for i in mine], [curves[i] for i in mine], noise)  # type: ignore[misc]
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
                offset_frames=None if row.value is None else settle(row.value),
                estimate=None if row.value is None else round(row.value, 3),
                sd=None if row.sd is None else round(row.sd, 3),
                confidence=round(row.margin, 2),
                level=row.level,
                own=None if row.own is None else round(row.own, 2),
                windows=row.windows,
                before=before.get(entry.name, 0.0),
                reason=problems[index] or row.reason,
            )
        )
    return decisions, corpora


def measure_noise(curves: Sequence[Curve]) -> float:
    """Variance of a sure peak times the number of windows, from how far the halves of clips disagree (median)."""
    sure = [curve for curve in curves if find_peak(curve.mean).margin >= SURE]
    squares = [curve.windows * halves_differ(curve) ** 2 / 4 for curve in sure]
    # 0.455 is the median of a squared standard Gaussian
    return max(float(np.median(squares)) / 0.455, 0.1) if len(squares) >= 10 else _NOISE


@dataclass(frozen=True)
class _Estimate:
    value: float | None
    sd: float | None
    margin: float
    level: str
    own: float | None
    windows: int
    reason: str


def _judge_corpus(
    entries: list[ClipEntry], curves: list[Curve], noise: float
) -> tuple[list[_Estimate], dict[str, float]]:
    peaks = [find_peak(curve.mean) for curve in curves]
    sure = [i for i, peak in enumerate(peaks) if peak.margin >= SURE]
    odd = stand_out(np.array([peaks[i].offset for i in sure]))
    # what nobody else in the corpus shows takes more to be believed
    sure = [i for i, strange in zip(sure, odd, strict=True) if not strange or peaks[i].margin >= _STRANGE]
    videos, speakers = [video_of(entry) for entry in entries], [entry.speaker for entry in entries]
    tree = OffsetTree(
        np.array([peaks[i].offset for i in sure]),
        np.array([noise / curves[i].windows for i in sure]),
        [videos[i] for i in sure],
        [speakers[i] for i in sure],
    )
    final = dict(zip(sure, zip(*tree.clips, strict=True), strict=True))
    of_video: dict[str, list[Curve]] = {}
    for video, curve in zip(videos, curves, strict=True):
        of_video.setdefault(video, []).append(curve)
    pooled = {video: add_curves(parts) for video, parts in of_video.items() if len(parts) > 1}
    rows = []
    for index, (peak, curve) in enumerate(zip(peaks, curves, strict=True)):
        level, value, variance, margin = "clip", *final.get(index, (0.0, math.inf)), peak.margin
        if index not in final:
            together = find_peak(pooled[videos[index]].mean) if videos[index] in pooled else None
            if together is not None and together.margin >= SURE:
                level, value, margin = "video", together.offset, together.margin
                variance = noise / pooled[videos[index]].windows + tree.spreads[0]
            elif curve.windows < _LONG and peak.margin < SURE:
                level, value, variance = tree.infer(speakers[index])
        reason = ""
        if not math.sqrt(variance) <= _DOUBT:
            long = curve.windows >= _LONG
            reason = "no clear offset" + (": another's voice, music, noise or a hidden mouth" if long else "")
        rows.append(
            _Estimate(None, None, margin, "none", peak.offset, curve.windows, reason)
            if reason
            else _Estimate(float(value), math.sqrt(variance), margin, level, peak.offset, curve.windows, "")
        )
    return rows, tree.facts()


def to_lines(report: dict[str, Any]) -> str:
    """What :func:`align` did, for people."""
    lines = [
        f"{corpus}: zero at {row['zero']:+.2f} ± {row['sd']:.2f} frames, {row['sure']} sure clips"
        for corpus, row in report["corpora"].items()
    ]
    lines.append(
        f"{Path(report['root'], 'offsets.csv')}: {report['shifted']} of {report['clips']} clips shifted, "
        f"{report['untouched']} untouched, {report['left_out']} left out; moved by {report['moved']} frames"
    )
    return "\n".join(lines)


def write_decisions(root: Path, decisions: Sequence[Decision]) -> None:
    """Write ``offsets.csv`` and ``align.jsonl``, each under a temporary name first."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("clip", "offset_frames", "confidence", "level"))
    for row in decisions:
        offset = "" if row.offset_frames is None else f"{row.offset_frames:g}"
        writer.writerow((row.clip, offset, f"{row.confidence:.2f}", row.level))
    lines = "".join(to_json(asdict(row)) for row in decisions)
    for path, text in ((root / "align.jsonl", lines), (root / "offsets.csv", table.getvalue())):
        write_atomically(path, text)
