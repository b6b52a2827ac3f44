"""Everything behind ``unisync doctor``: what an expert would look at before training, clip by clip and all together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unisync_loss.config import FPS
from unisync_loss.curation.checks import (
    BETTER,
    LONG,
    Finding,
    find_owner,
    find_speed,
    is_sure,
    judge_content,
    judge_copies,
    judge_faces,
    judge_speakers,
    judge_splits,
    judge_sync,
    sync_facts,
)
from unisync_loss.curation.duplicates import (
    GRID,
    Fingerprint,
    confirm_repeats,
    find_repeats,
    print_pictures,
    print_sound,
    shrink_pictures,
)
from unisync_loss.curation.measurements import face_facts, file_facts, movement_facts, read_head, sound_facts
from unisync_loss.curation.offset_curves import Curve, centred_offset_curve
from unisync_loss.data.clips import ClipEntry, list_clips
from unisync_loss.data.store import is_store, read_lines
from unisync_loss.evaluation.embeddings import embed_clip
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import SUFFIXES, find_videos
from unisync_loss.video.face_mesh import face_mesh

_MESHES = 125  # frames, every second one, in which the face is looked for: 10 s
_MOST_PAIRS = 300  # unclear clips that are compared with one another: their pairs are many
_NOTHING = Fingerprint(np.zeros(0, np.uint32), np.zeros(0, bool), 1)


@dataclass(frozen=True)
class Patient:
    """A clip to be looked at; ``split`` is empty where unknown, ``facts`` is what a store knows of its source."""

    name: str
    split: str
    entry: ClipEntry
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Chart:
    """What is kept of a clip; ``audio`` and ``visual`` (W, D) only while its sync is in question."""

    row: dict[str, Any]
    found: list[Finding]
    digest: str = ""
    sound: Fingerprint = _NOTHING
    pictures: Fingerprint = _NOTHING
    portrait: NDArray[np.float32] | None = None
    curve: Curve | None = None
    audio: torch.Tensor | None = None
    visual: torch.Tensor | None = None


def list_patients(paths: Sequence[Path]) -> list[Patient]:
    """The clips of stores, folders and files; of several folders each is a split, unless a store knows better.

    Args:
        paths: stores, folders of ``<corpus>/<speaker>/<clip>`` with their ``offsets.csv``, other folders, files.

    Returns:
        The clips, named from the working directory where there are several paths.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: when a folder holds no clips or an index cannot be read.
    """
    patients = []
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
                if "crop_pixels" in entry.record.facts:  # of the source: how much the crop was magnified
                    facts["crop_pixels"] = entry.record.facts["crop_pixels"]
                split = entry.record.facts.get("split") or split
            name = (path / entry.name).as_posix() if len(paths) > 1 and path.is_dir() else entry.name
            patients.append(Patient(name, split, entry, facts))
    return patients


def _list_entries(path: Path) -> list[ClipEntry]:
    if is_store(path) or any(file.suffix.lower() in SUFFIXES for file in path.glob("*/*/*")):
        return list_clips(path)
    names = [(video.relative_to(path) if path.is_dir() else video, video) for video in find_videos(path)]
    return [ClipEntry(video, name.as_posix(), "", "") for name, video in names]


def examine(
    patients: Sequence[Patient], expert: UniSyncExpert, log: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Look at every clip, then at all together; of each the first 40 s.

    Args:
        patients: of `list_patients`.
        expert: mel-rgb, in eval mode.
        log: takes lines of progress.

    Returns:
        ``{"clips": facts of each, "problems": [{"clip", "verdict", "detail", "other", "remedy"}], "verdicts": counts,
        "splits": sums of each, "not_told": clips whose sync could not be told}``, ready for JSON.

    Raises:
        ImportError: without PyAV, MediaPipe or SciPy.
        ValueError: for an expert of anything but mel and RGB.
    """
    if expert.config.name != "mel-rgb":
        raise ValueError(f"expected a mel-rgb expert, got {expert.config.name}")
    charts: list[Chart] = []
    unclear = 0
    progress = Progress(log, len(patients), "clips")
    for number, patient in enumerate(patients, 1):
        charts.append(look_at(patient, expert))
        unclear += charts[-1].audio is not None
        if unclear > _MOST_PAIRS:
            charts[-1].audio = charts[-1].visual = None
        progress.update(number)
    _look_closer(charts)
    rows = [chart.row for chart in charts]
    found = [finding for chart in charts for finding in chart.found]
    found += judge_speakers(rows, [None if chart.found else chart.curve for chart in charts])
    found += _compare(charts) + judge_splits(rows)
    return {
        "clips": rows,
        "problems": [{**asdict(finding), "remedy": finding.remedy} for finding in found],
        "verdicts": dict(Counter(finding.verdict for finding in found).most_common()),
        "splits": summarise(rows),
        "not_told": [chart.row["clip"] for chart in charts if not chart.found and not _told(chart.row)],
    }


def look_at(patient: Patient, expert: UniSyncExpert) -> Chart:
    """Facts of one clip, and what is wrong with it by itself."""
    entry = patient.entry
    row: dict[str, Any] = {"clip": patient.name, "split": patient.split, "speaker": entry.speaker, **patient.facts}
    try:
        if entry.record is None:
            row |= file_facts(entry)
        clip = read_head(entry)
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix(f"{entry.path}: ")
        return Chart(row, [Finding(patient.name, "unreadable", reason)])
    cells = shrink_pictures(clip.frames, GRID)
    frames = clip.frames[::2][:_MESHES]
    look = face_facts(frames, face_mesh(frames))
    row |= {"frames": len(clip.frames), **sound_facts(clip.waveform), **look.facts, **movement_facts(cells)}
    chart = Chart(
        row,
        judge_content(row),
        digest=hashlib.blake2b(clip.frames.tobytes() + clip.waveform.tobytes(), digest_size=16).hexdigest(),
        sound=print_sound(clip.waveform),
        pictures=print_pictures(cells),
        portrait=look.portrait,
    )
    if not chart.found:  # else it says nothing of sync
        seen = embed_clip(expert, entry, clip)
        chart.curve = centred_offset_curve(seen.audio, seen.visual)
        row |= sync_facts(chart.curve)
        chart.found = judge_sync(row)
        if row["windows"] >= LONG and (chart.found or not is_sure(row)):
            chart.audio, chart.visual = seen.audio, seen.visual
    return chart


def _told(row: dict[str, Any]) -> bool:
    """Whether a clip's own offset is to be believed."""
    return bool(row.get("windows", 0) >= LONG and is_sure(row))


def _look_closer(charts: Sequence[Chart]) -> None:
    """Find out what is wrong where there is no clear offset: the picture's speed, or another clip's sound."""
    unclear = [chart for chart in charts if chart.audio is not None and chart.visual is not None]
    visuals = [chart.visual for chart in unclear if chart.visual is not None]
    for place, chart in enumerate(unclear):
        assert chart.audio is not None
        clip = chart.row["clip"]
        owner = find_owner(chart.audio, visuals)
        lost = any(finding.verdict == "no clear offset" for finding in chart.found)
        speed = find_speed(chart.audio, visuals[place]) if lost else None
        other = unclear[owner[0]].row if owner is not None else chart.row
        if owner is not None and owner[1] > max(chart.row["evidence"], other["evidence"]) + BETTER:
            name = other["clip"]
            chart.found = [Finding(clip, "sound of another clip", f"its sound fits the pictures of {name}", name)]
        elif speed is not None:
            detail = f"the picture runs {speed:.2f} times as fast as the sound"
            chart.found = [Finding(clip, "wrong frame rate", detail)]


def _compare(charts: Sequence[Chart]) -> list[Finding]:
    """Problems between clips: copies, and faces in two splits."""
    rows, digests = [chart.row for chart in charts], [chart.digest for chart in charts]
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    # of exact copies one is compared with the others
    once = [chart if first[chart.digest] == index else Chart(chart.row, []) for index, chart in enumerate(charts)]
    sounds, pictures = find_repeats([chart.sound for chart in once]), find_repeats([chart.pictures for chart in once])
    sounds, pictures = (
        sounds + confirm_repeats([chart.sound for chart in once], pictures),
        pictures + confirm_repeats([chart.pictures for chart in once], sounds),
    )
    copies = judge_copies(rows, digests, sounds, pictures)
    return copies + judge_faces(rows, [chart.portrait for chart in charts])


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sums of every split: clips, speakers, minutes looked at, share of silence, frame rates, sample rates, offsets."""
    splits = {}
    for split in sorted({row["split"] for row in rows}):
        mine = [row for row in rows if row["split"] == split]
        read = [row for row in mine if "frames" in row]
        weights = [row["frames"] for row in read]
        sure = [row["offset_frames"] for row in read if _told(row)]
        splits[split] = {
            "clips": len(mine),
            "speakers": len({row["speaker"] for row in mine if row["speaker"]}),
            "minutes": round(sum(weights) / FPS / 60, 2),
            "silence": round(float(np.average([row["silence"] for row in read], weights=weights)), 3) if read else None,
            "fps": dict(Counter(f"{row['fps']:g}" for row in mine if "fps" in row).most_common()),
            "sample_rate": dict(Counter(str(row["sample_rate"]) for row in mine if "sample_rate" in row).most_common()),
            "sure_offsets": len(sure),
            "offset_percentiles": [round(float(x), 2) for x in np.percentile(sure, (5, 50, 95))] if sure else None,
            "speaker_clips": dict(Counter(row["speaker"] for row in mine if row["speaker"]).most_common()),
        }
    return splits
