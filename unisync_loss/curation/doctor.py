"""Data-set check: every clip is measured by itself, then compared with the others.

:func:`examine` is the library side of ``unisync doctor``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from unisync_loss.config import FPS
from unisync_loss.curation.checks import (
    BETTER,
    LONG,
    Finding,
    check_content,
    check_speakers,
    check_sync,
    find_owner,
    find_speed,
    has_own_offset,
    is_confident,
    measure_sync,
)
from unisync_loss.curation.cross_checks import check_copies, check_faces, check_splits
from unisync_loss.curation.duplicates import (
    GRID,
    Fingerprint,
    audio_fingerprint,
    confirm_repeats,
    find_repeats,
    frame_fingerprint,
    shrink_frames,
)
from unisync_loss.curation.measurements import measure_audio, measure_face, measure_file, measure_movement, read_head
from unisync_loss.curation.offset_curves import Curve, centred_offset_curve
from unisync_loss.data.clips import ClipEntry, check_visual, frames_with_audio, list_clips, stored_mesh
from unisync_loss.data.store import is_store, read_lines
from unisync_loss.evaluation.embeddings import embed_clip
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.process_pool import call_isolated
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import SUFFIXES, find_videos
from unisync_loss.video.face_mesh import face_mesh
from unisync_loss.video.reading import read_clip_isolated

_MESH_FRAMES = 125  # every second frame of the first 10 s, in which the face is measured
_MOST_UNCLEAR = 300  # clips that are compared with one another: the number of pairs grows with the square
_EMPTY = Fingerprint(np.zeros(0, np.uint32), np.zeros(0, bool), 1)


@dataclass(frozen=True)
class ClipRef:
    """A clip to check.

    Attributes:
        name: in the report.
        split: empty where unknown.
        entry: the clip.
        facts: what a store holds about its source.
    """

    name: str
    split: str
    entry: ClipEntry
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClipReport:
    """Results of one clip.

    Attributes:
        row: measurements, ready for JSON.
        found: its problems.
        digest: of the decoded clip; empty where unreadable.
        audio_print: fingerprint of the audio.
        frame_print: fingerprint of the frames.
        portrait: of :func:`.measurements.measure_face`.
        curve: None where the audio or the video has a problem of its own.
        audio: (W, D) embeddings, kept only while the offset is unclear.
        visual: (W, D) embeddings, likewise.
    """

    row: dict[str, Any]
    found: list[Finding]
    digest: str = ""
    audio_print: Fingerprint = _EMPTY
    frame_print: Fingerprint = _EMPTY
    portrait: NDArray[np.float32] | None = None
    curve: Curve | None = None
    audio: torch.Tensor | None = None
    visual: torch.Tensor | None = None


class Problem(TypedDict):
    """A :class:`.checks.Finding` with its fix, under the key ``remedy``."""

    clip: str
    verdict: str
    detail: str
    other: str | None
    remedy: str


class SplitSummary(TypedDict):
    """Sums of a split.

    Attributes:
        clips: number of clips.
        speakers: number of speakers.
        minutes: length of what was measured.
        silence: share of it; None without a readable clip.
        fps: number of clips by frame rate.
        sample_rate: number of clips by sample rate.
        sure_offsets: number of clips with a confident offset of their own.
        offset_percentiles: 5th, 50th and 95th of these offsets in frames; None without one.
        speaker_clips: number of clips by speaker.
    """

    clips: int
    speakers: int
    minutes: float
    silence: float | None
    fps: dict[str, int]
    sample_rate: dict[str, int]
    sure_offsets: int
    offset_percentiles: list[float] | None
    speaker_clips: dict[str, int]


class DoctorReport(TypedDict):
    """Report of :func:`examine`, ready for JSON.

    Attributes:
        clips: measurements of each clip, see :mod:`.measurements` and :func:`.checks.measure_sync`.
        problems: of clips, then of speakers and sources.
        verdicts: number of problems by verdict, most frequent first.
        splits: by name, which is empty where clips have no split.
        not_told: names of the clips without a problem whose sync is undecided.
    """

    clips: list[dict[str, Any]]
    problems: list[Problem]
    verdicts: dict[str, int]
    splits: dict[str, SplitSummary]
    not_told: list[str]


def list_clip_refs(paths: Sequence[Path]) -> list[ClipRef]:
    """List the clips of stores, folders and files; of several folders each is a split, unless a store holds splits.

    Args:
        paths: stores, folders of ``<corpus>/<speaker>/<clip>`` with their ``offsets.csv``, other folders, files.

    Returns:
        The clips, with names relative to the working directory where there are several paths.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: when a folder holds no clips or an index cannot be read.
    """
    refs = []
    folders = sum(path.is_dir() for path in paths)
    for path in paths:
        split = path.as_posix() if folders > 1 and path.is_dir() else ""
        files = {line["source"]: line.get("file") or {} for _, line in read_lines(path)} if is_store(path) else {}
        for entry in _list_entries(path):
            facts: dict[str, Any] = {}
            if entry.record is not None:
                source = str(entry.record.facts.get("source", ""))
                file = files.get(source, {})
                facts = {"source": source, **{key: file[key] for key in ("fps", "sample_rate") if key in file}}
                if "crop_pixels" in entry.record.facts:  # in the source: a small one was magnified
                    facts["crop_pixels"] = entry.record.facts["crop_pixels"]
                split = entry.record.facts.get("split") or split
            name = (path / entry.name).as_posix() if len(paths) > 1 and path.is_dir() else entry.name
            refs.append(ClipRef(name, split, entry, facts))
    return refs


def _list_entries(path: Path) -> list[ClipEntry]:
    if is_store(path) or any(file.suffix.lower() in SUFFIXES for file in path.glob("*/*/*")):
        return list_clips(path)
    names = [(video.relative_to(path) if path.is_dir() else video, video) for video in find_videos(path)]
    return [ClipEntry(video, name.as_posix(), "", "") for name, video in names]


def examine(
    refs: Sequence[ClipRef], expert: UniSyncExpert, log: Callable[[str], None] = lambda line: None
) -> DoctorReport:
    """Check the first 40 s of every clip, then all clips together.

    Args:
        refs: of :func:`list_clip_refs`.
        expert: in eval mode, of any representation that is stored with the clips or can be made from video. The
            thresholds were chosen with ``mel-rgb`` 0.1.
        log: takes lines of progress.

    Raises:
        ImportError: without PyAV, MediaPipe or SciPy.
        ValueError: for an expert of another representation, before any work.
    """
    check_visual(expert.config, [ref.entry for ref in refs])
    reports: list[ClipReport] = []
    unclear = 0
    progress = Progress(log, len(refs), "clips")
    for number, ref in enumerate(refs, 1):
        reports.append(check_clip(ref, expert))
        unclear += reports[-1].audio is not None
        if unclear > _MOST_UNCLEAR:
            reports[-1].audio = reports[-1].visual = None
        progress.update(number)
    _explain_unclear(reports)
    rows = [report.row for report in reports]
    found = [finding for report in reports for finding in report.found]
    found += check_speakers(rows, [None if report.found else report.curve for report in reports])
    found += _compare(reports) + check_splits(rows)
    return {
        "clips": rows,
        "problems": [
            {"clip": each.clip, "verdict": each.verdict, "detail": each.detail, "other": each.other, "remedy": each.fix}
            for each in found
        ],
        "verdicts": dict(Counter(finding.verdict for finding in found).most_common()),
        "splits": summarise_splits(rows),
        "not_told": [report.row["clip"] for report in reports if not report.found and not has_own_offset(report.row)],
    }


def check_clip(ref: ClipRef, expert: UniSyncExpert) -> ClipReport:
    """Measure one clip and check it by itself."""
    entry = ref.entry
    row: dict[str, Any] = {"clip": ref.name, "split": ref.split, "speaker": entry.speaker, **ref.facts}
    try:
        if entry.record is None:
            row |= call_isolated(measure_file, entry)
        clip = read_clip_isolated(read_head, entry)
        frames = clip.frames[::2][:_MESH_FRAMES]
        mesh = _mesh_of(entry, frames)
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix(f"{entry.path}: ")
        return ClipReport(row, [Finding(ref.name, "unreadable", reason)])
    cells = shrink_frames(clip.frames, GRID)
    face = measure_face(frames, mesh)
    row |= {"frames": len(clip.frames), **measure_audio(clip.waveform), **face.facts, **measure_movement(cells)}
    report = ClipReport(
        row,
        check_content(row),
        digest=hashlib.blake2b(clip.frames.tobytes() + clip.waveform.tobytes(), digest_size=16).hexdigest(),
        audio_print=audio_fingerprint(clip.waveform),
        frame_print=frame_fingerprint(cells),
        portrait=face.portrait,
    )
    if not report.found:  # with a fault of its own, a clip carries no information about sync
        try:
            embedding = embed_clip(expert, entry, clip)
        except ValueError as error:  # of an expert on landmarks or the like, which needs the face in most frames
            report.found = [Finding(ref.name, "no whole face", str(error))]
            return report
        report.curve = centred_offset_curve(embedding.audio, embedding.visual)
        row |= measure_sync(report.curve)
        report.found = check_sync(row)
        if row["windows"] >= LONG and (report.found or not is_confident(row)):
            report.audio, report.visual = embedding.audio, embedding.visual
    return report


def _mesh_of(entry: ClipEntry, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mesh (T, 468, 2) of every second frame of a clip: the stored one, or one measured on the frames (T, H, W, 3)."""
    mesh = stored_mesh(entry)
    if mesh is None:
        return face_mesh(frames)
    first, _ = frames_with_audio(len(mesh), entry.offset)  # the frames begin where the corrected audio does
    return mesh[first::2, :, :2][: len(frames)]


def _explain_unclear(reports: Sequence[ClipReport]) -> None:
    """Look for the cause of an unclear offset: the speed of the video, or the audio of another clip."""
    unclear = [report for report in reports if report.audio is not None and report.visual is not None]
    visuals = [report.visual for report in unclear if report.visual is not None]
    for index, report in enumerate(unclear):
        assert report.audio is not None
        clip = report.row["clip"]
        owner = find_owner(report.audio, visuals)
        no_offset = any(finding.verdict == "no clear offset" for finding in report.found)
        speed = find_speed(report.audio, visuals[index]) if no_offset else None
        other = unclear[owner[0]].row if owner is not None else report.row
        if owner is not None and owner[1] > max(report.row["evidence"], other["evidence"]) + BETTER:
            name = other["clip"]
            report.found = [Finding(clip, "sound of another clip", f"its audio matches the video of {name}", name)]
        elif speed is not None:
            detail = f"the video runs {speed:.2f} times as fast as the audio"
            report.found = [Finding(clip, "wrong frame rate", detail)]


def _compare(reports: Sequence[ClipReport]) -> list[Finding]:
    """Find problems between clips: copies, and faces in two splits."""
    rows, digests = [report.row for report in reports], [report.digest for report in reports]
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    # of exact copies only the first is compared with the others
    firsts = [first[digest] == index for index, digest in enumerate(digests)]
    audio_prints = [each.audio_print if keep else _EMPTY for each, keep in zip(reports, firsts, strict=True)]
    frame_prints = [each.frame_print if keep else _EMPTY for each, keep in zip(reports, firsts, strict=True)]
    in_audio, in_frames = find_repeats(audio_prints), find_repeats(frame_prints)
    copies = check_copies(
        rows,
        digests,
        in_audio + confirm_repeats(audio_prints, in_frames),
        in_frames + confirm_repeats(frame_prints, in_audio),
    )
    return copies + check_faces(rows, [report.portrait for report in reports])


def summarise_splits(rows: Sequence[dict[str, Any]]) -> dict[str, SplitSummary]:
    """Sum up the measurements of the clips of every split."""
    splits: dict[str, SplitSummary] = {}
    for split in sorted({row["split"] for row in rows}):
        mine = [row for row in rows if row["split"] == split]
        read = [row for row in mine if "frames" in row]
        weights = [row["frames"] for row in read]
        offsets = [row["offset_frames"] for row in read if has_own_offset(row)]
        splits[split] = {
            "clips": len(mine),
            "speakers": len({row["speaker"] for row in mine if row["speaker"]}),
            "minutes": round(sum(weights) / FPS / 60, 2),
            "silence": round(float(np.average([row["silence"] for row in read], weights=weights)), 3) if read else None,
            "fps": dict(Counter(f"{row['fps']:g}" for row in mine if "fps" in row).most_common()),
            "sample_rate": dict(Counter(str(row["sample_rate"]) for row in mine if "sample_rate" in row).most_common()),
            "sure_offsets": len(offsets),
            "offset_percentiles": [round(float(x), 2) for x in np.percentile(offsets, (5, 50, 95))]
            if offsets
            else None,
            "speaker_clips": dict(Counter(row["speaker"] for row in mine if row["speaker"]).most_common()),
        }
    return splits
