"""LSE-D and LSE-C of video files by the named procedures in use, each of which gives other numbers.

=================  ==================================================================================================
``syncnet``        face track of more than 100 frames, SyncNet's crop, one result a track (``syncnet_python``)
``wav2lip-real``   the same, as Wav2Lip's script for real videos runs it: the mean is over tracks
``wav2lip-lrs``    the whole picture squeezed to 224 × 224, for files that are face crops already; mean over files
``latentsync``     tracks of more than 50 frames; mean over a video's tracks, then over videos
=================  ==================================================================================================

All at 25 fps by time stamps, where a hole in the pictures shows the last one before it; ``wav2lip-lrs`` of the original
does not convert, so it is right for 25 fps only. Pictures are not compressed again on the way, as the originals do up
to three times.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.lse.crops import FaceTrack, Place, crops, cut, find_tracks, keep_tracks, squeeze
from unisync_loss.lse.distances import Edge, LseMeter, summarise
from unisync_loss.lse.syncnet import SyncNet, load_syncnet
from unisync_loss.utils.prefetch import prefetch
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import every_frame, find_videos
from unisync_loss.video.decoding import open_media, read_facts, stream_audio, stream_frames
from unisync_loss.video.encoding import to_int16
from unisync_loss.video.face_detection import Frame, MediaPipeFinder

MEASURES = ("lse_d", "lse_c", "lse_d_valid", "lse_c_valid")
COLUMNS = ("video", "variant", "track", "start", "frames", *MEASURES, "offset", "offset_valid", "skipped")

Row = dict[str, Any]


@dataclass(frozen=True)
class Procedure:
    """How videos become numbers.

    Attributes:
        min_track: frames that a face track must exceed; None takes the whole picture.
        mean_over: what the means of several videos are taken over.
    """

    min_track: int | None
    mean_over: Literal["tracks", "videos"]


PROCEDURES = {
    "syncnet": Procedure(100, "tracks"),
    "wav2lip-real": Procedure(100, "tracks"),
    "wav2lip-lrs": Procedure(None, "videos"),
    "latentsync": Procedure(50, "videos"),
}


def measure_video(
    net: SyncNet, path: str | os.PathLike[str], variant: str, on_progress: Callable[[float], None] = lambda share: None
) -> Row:
    """LSE of one video.

    Args:
        net: weights loaded.
        path: the file.
        variant: a name in :data:`PROCEDURES`.
        on_progress: takes the share of the video that is done.

    Returns:
        ``video``, ``variant``, ``lse_d``, ``lse_c``, ``offset`` in frames (positive = audio late, the reverse of the
        original's), the same three with ``_valid`` for the edge that invents no pairs, and ``tracks`` with these of
        each track, its ``start`` in seconds and its ``frames``. Distances and confidences of a video are means over its
        tracks; its offset is that of the longest, for ``latentsync`` the mean cut to a whole number.

    Raises:
        ValueError: for an unknown variant, a file that cannot be decoded, or one without a face track long enough.
        FileNotFoundError: when there is no such file.
    """
    min_track = procedure(variant).min_track
    facts = read_facts(path)
    samples = _read_samples(path, facts.zero)

    def watched(frames: Iterable[Frame], begin: float, end: float) -> Iterator[Frame]:
        """Pass frames on, reporting progress from one share to another."""
        for index, frame in enumerate(frames):
            yield frame
            on_progress(begin + (end - begin) * min(1.0, (index + 1) / FPS / max(facts.seconds, 1 / FPS)))

    if min_track is None:
        meter = LseMeter(net, samples)
        with _decoded(path) as frames:
            for frame in watched(frames, 0, 1):
                meter.add(squeeze(frame))
        rows = [{"track": 0, **track_row(meter, 0)}]
    else:
        with _decoded(path) as frames:
            tracks = keep_tracks(find_tracks(watched(frames, 0, 0.2), MediaPipeFinder()), min_track)
        with _decoded(path) as frames:
            measured = list(_measure_tracks(net, watched(frames, 0.2, 1), samples, tracks))
        rows = [{"track": number, **row} for number, row in enumerate(measured)]
    return {"video": str(path), "variant": variant, **video_row(rows, variant), "tracks": rows}


@contextmanager
def _decoded(path: str | os.PathLike[str]) -> Iterator[Iterator[Frame]]:
    """All frames of a video, decoded beside what is done with them."""
    with open_media(path) as container, prefetch(every_frame(stream_frames(container))) as frames:
        yield frames


def _read_samples(path: str | os.PathLike[str], zero: float) -> NDArray[np.int16]:
    """The whole sound from the first picture on, 32 kB a second."""
    sound = bytearray()
    with open_media(path) as container:
        for block in stream_audio(container, zero):
            sound += to_int16(block).tobytes()
    return np.frombuffer(sound, np.int16)


def _measure_tracks(
    net: SyncNet, frames: Iterator[Frame], samples: NDArray[np.int16], tracks: Sequence[FaceTrack]
) -> Iterator[Row]:
    """One pass over the video; a track that has ended leaves its numbers alone: constant memory."""
    waiting = sorted(tracks, key=lambda track: track.start, reverse=True)
    running: list[tuple[FaceTrack, LseMeter, Iterator[Place]]] = []
    for index, frame in enumerate(frames):
        while waiting and waiting[-1].start == index:
            track = waiting.pop()
            span = slice(index * SAMPLES_PER_FRAME, (index + len(track.boxes)) * SAMPLES_PER_FRAME)
            running.append((track, LseMeter(net, samples[span]), crops(track)))
        for _, meter, places in running:
            meter.add(cut(frame, *next(places)))
        for track, meter, _ in running:
            if track.start + len(track.boxes) == index + 1:
                yield track_row(meter, track.start)
        running = [run for run in running if run[0].start + len(run[0].boxes) > index + 1]


def procedure(variant: str) -> Procedure:
    """Look a procedure up.

    Raises:
        ValueError: for an unknown name.
    """
    if variant not in PROCEDURES:
        raise ValueError(f"variant: expected one of {', '.join(PROCEDURES)}, got {variant!r}")
    return PROCEDURES[variant]


def track_row(meter: LseMeter, start: int) -> Row:
    """Numbers of a track, from frame ``start`` on, under both edges."""
    row: Row = {"start": round(start / FPS, 2), "frames": meter.frames}
    edges: tuple[tuple[Edge, str], ...] = (("legacy", ""), ("valid", "_valid"))
    for edge, suffix in edges:
        lse = summarise(meter.distances(edge))
        row |= {f"lse_d{suffix}": lse.lse_d, f"lse_c{suffix}": lse.lse_c, f"offset{suffix}": lse.offset}
    return row


def video_row(tracks: Sequence[Row], variant: str) -> Row:
    """Numbers of a video from those of its tracks."""
    row: Row = average(tracks)
    longest = max(tracks, key=lambda track: track["frames"])
    for key in ("offset", "offset_valid"):
        mean = np.mean([track[key] for track in tracks])
        row[key] = int(mean) if variant == "latentsync" else longest[key]
    return row


def average(rows: Sequence[Row]) -> Row:
    """Mean of each measure."""
    return {key: float(np.mean([row[key] for row in rows])) for key in MEASURES}


def measure_videos(paths: Sequence[Path], weights: Path, variant: str, log: Callable[[str], None]) -> Row:
    """LSE of videos and folders of videos.

    Args:
        paths: files and folders.
        weights: ``syncnet_v2.model``, or its copy in safetensors format.
        variant: a name in :data:`PROCEDURES`.
        log: takes lines of progress.

    Returns:
        ``variant``, ``weights_sha256``, ``videos`` of :func:`measure_video`, ``skipped`` (``video``, ``reason``),
        ``means`` (``lse_d``, ``lse_c``, …, ``over`` tracks or videos; None when nothing was measured), ``n_videos``,
        ``n_tracks``, ``n_skipped``.

    Raises:
        ValueError: for an unknown variant, a folder without videos, or unfit weights.
        FileNotFoundError: for a path that does not exist.
    """
    over = procedure(variant).mean_over
    files = list(dict.fromkeys(video for path in paths for video in find_videos(path)))
    net = load_syncnet(weights)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    videos: list[Row] = []
    skipped: list[Row] = []
    progress = Progress(log, len(files), "videos")

    def on_progress(share: float) -> None:
        progress.update(len(videos) + len(skipped) + share)

    for file in files:
        try:
            videos.append(measure_video(net, file, variant, on_progress))
        except (ValueError, OSError) as error:
            skipped.append({"video": str(file), "reason": str(error)})
    tracks = [track for video in videos for track in video["tracks"]]
    return {
        "variant": variant,
        "weights_sha256": digest,
        "n_videos": len(videos),
        "n_tracks": len(tracks),
        "n_skipped": len(skipped),
        "means": {**average(tracks if over == "tracks" else videos), "over": over} if videos else None,
        "videos": videos,
        "skipped": skipped,
    }


def to_csv(report: Row) -> str:
    """One line a track, and one a skipped video with the reason."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for video in report["videos"]:
        writer.writerows({"video": video["video"], "variant": report["variant"], **track} for track in video["tracks"])
    for row in report["skipped"]:
        writer.writerow({"video": row["video"], "variant": report["variant"], "skipped": row["reason"]})
    return text.getvalue()


def to_table(report: Row) -> str:
    """The report as text."""
    lines = [f"LSE by the procedure {report['variant']}; offset in frames, positive = audio late (40 ms each)"]
    lines.append("  LSE-D    LSE-C   offset | without zero padding: LSE-D, LSE-C, offset")
    for video in report["videos"]:
        for row in video["tracks"]:
            numbers = [
                f"{row['lse_d' + s]:7.3f}  {row['lse_c' + s]:7.3f}  {row['offset' + s]:+4d}" for s in ("", "_valid")
            ]
            lines.append(f"{numbers[0]}   |{numbers[1]}   {video['video']} at {row['start']} s")
    lines += [f"skipped {row['video']}: {row['reason']}" for row in report["skipped"]]
    means = report["means"]
    if means:
        lines.append(
            f"means over {means['over']}: LSE-D {means['lse_d']:.3f}, LSE-C {means['lse_c']:.3f}; without zero padding "
            f"{means['lse_d_valid']:.3f}, {means['lse_c_valid']:.3f}"
        )
    lines.append(f"{report['n_videos']} videos, {report['n_tracks']} tracks, {report['n_skipped']} skipped")
    return "\n".join(lines)
