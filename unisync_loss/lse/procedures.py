"""LSE-D and LSE-C of video files by the named procedures in use, which give different numbers on the same video.

=================  ==================================================================================================
``syncnet``        face tracks of more than 100 frames, SyncNet's crop, one result per track (``syncnet_python``)
``wav2lip-real``   the same, as Wav2Lip's script for real videos runs it: the mean is over tracks
``wav2lip-lrs``    the whole image resized to 224 × 224, for files that are face crops already; mean over files
``latentsync``     tracks of more than 50 frames; mean over a video's tracks, then over videos
=================  ==================================================================================================

All at 25 fps by time stamps, where a gap repeats the last frame before it; ``wav2lip-lrs`` of the original does not
convert, so it is right for 25 fps only. Frames are not compressed again on the way, as the originals do up to three
times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.lse.crops import CropBox, FaceTrack, crop_boxes, crop_face, find_tracks, keep_tracks, resize_frame
from unisync_loss.lse.distances import LseMeter, summarise
from unisync_loss.lse.results import LseMeasures, LseReport, LseTrack, LseVideo, SkippedVideo, average
from unisync_loss.lse.syncnet import SyncNet, load_syncnet
from unisync_loss.utils.prefetch import prefetch
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import every_frame, find_videos
from unisync_loss.video.decoding import open_media, read_facts, stream_audio, stream_frames
from unisync_loss.video.encoding import to_int16
from unisync_loss.video.face_detection import Frame, MediaPipeFinder


@dataclass(frozen=True)
class Procedure:
    """Settings of a procedure.

    Attributes:
        min_track: number of frames that a face track must exceed; None takes the whole image.
        mean_over: what the means of several videos are taken over.
    """

    min_track: int | None
    mean_over: Literal["tracks", "videos"]


PROCEDURES = {
    "syncnet": Procedure(100, "tracks"),  # --min_track of run_pipeline.py
    "wav2lip-real": Procedure(100, "tracks"),  # calculate_scores_real_videos.sh, which prints one line per track
    "wav2lip-lrs": Procedure(None, "videos"),  # calculate_scores_LRS.py
    "latentsync": Procedure(50, "videos"),  # eval/eval_sync_conf.py
}


def measure_video(
    net: SyncNet, path: str | os.PathLike[str], variant: str, on_progress: Callable[[float], None] = lambda share: None
) -> LseVideo:
    """LSE of one video.

    Args:
        net: of :func:`unisync_loss.lse.syncnet.load_syncnet`.
        path: the file.
        variant: a name in :data:`PROCEDURES`.
        on_progress: takes the share of the video that is done.

    Returns:
        Measures of the video and of its tracks. Distances and confidences of a video are means over its tracks; its
        offset is that of the longest track, for ``latentsync`` the mean, truncated to a whole number.

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
                meter.add(resize_frame(frame))
        rows = [track_row(meter, 0, 0)]
    else:
        with _decoded(path) as frames:
            tracks = keep_tracks(find_tracks(watched(frames, 0, 0.2), MediaPipeFinder()), min_track)
        with _decoded(path) as frames:
            rows = list(_measure_tracks(net, watched(frames, 0.2, 1), samples, tracks))
    return video_row(str(path), rows, variant)


@contextmanager
def _decoded(path: str | os.PathLike[str]) -> Iterator[Iterator[Frame]]:
    """Frames of a video at 25 fps, decoded in a thread of their own."""
    with open_media(path) as container, prefetch(every_frame(stream_frames(container))) as frames:
        yield frames


def _read_samples(path: str | os.PathLike[str], zero: float) -> NDArray[np.int16]:
    """Audio (S,) at 16 kHz from the first frame on; 32 kB per second, so all of it fits in memory."""
    samples = bytearray()
    with open_media(path) as container:
        for block in stream_audio(container, zero):
            samples += to_int16(block).tobytes()
    return np.frombuffer(samples, np.int16)


def _measure_tracks(
    net: SyncNet, frames: Iterator[Frame], samples: NDArray[np.int16], tracks: Sequence[FaceTrack]
) -> Iterator[LseTrack]:
    """Measure all tracks in one pass over the video; only running tracks hold frames: constant memory."""
    waiting = sorted(tracks, key=lambda track: track.start, reverse=True)
    running: list[tuple[FaceTrack, LseMeter, Iterator[CropBox]]] = []
    number = 0
    for index, frame in enumerate(frames):
        while waiting and waiting[-1].start == index:
            track = waiting.pop()
            span = slice(index * SAMPLES_PER_FRAME, (index + len(track.boxes)) * SAMPLES_PER_FRAME)
            running.append((track, LseMeter(net, samples[span]), crop_boxes(track)))
        for _, meter, boxes in running:
            meter.add(crop_face(frame, next(boxes)))
        for track, meter, _ in running:
            if track.start + len(track.boxes) == index + 1:
                yield track_row(meter, number, track.start)
                number += 1
        running = [run for run in running if run[0].start + len(run[0].boxes) > index + 1]


def procedure(variant: str) -> Procedure:
    """Procedure by name.

    Raises:
        ValueError: for an unknown name.
    """
    if variant not in PROCEDURES:
        raise ValueError(f"variant: expected one of {', '.join(PROCEDURES)}, got {variant!r}")
    return PROCEDURES[variant]


def track_row(meter: LseMeter, number: int, start: int) -> LseTrack:
    """Measures of a track that begins at frame ``start``."""
    padded, valid = summarise(meter.distances("legacy")), summarise(meter.distances("valid"))
    return {
        "track": number,
        "start": round(start / FPS, 2),
        "frames": meter.frames,
        "lse_d": padded.lse_d,
        "lse_c": padded.lse_c,
        "offset": padded.offset,
        "lse_d_valid": valid.lse_d,
        "lse_c_valid": valid.lse_c,
        "offset_valid": valid.offset,
    }


def video_row(video: str, tracks: list[LseTrack], variant: str) -> LseVideo:
    """Measures of a video from those of its tracks."""
    longest = max(tracks, key=lambda track: track["frames"])
    offset, offset_valid = longest["offset"], longest["offset_valid"]
    if variant == "latentsync":
        offset = int(np.mean([track["offset"] for track in tracks]))
        offset_valid = int(np.mean([track["offset_valid"] for track in tracks]))
    return {
        "video": video,
        "variant": variant,
        **average(tracks),
        "offset": offset,
        "offset_valid": offset_valid,
        "tracks": tracks,
    }


def measure_videos(paths: Sequence[Path], weights: Path, variant: str, log: Callable[[str], None]) -> LseReport:
    """LSE of videos and folders of videos.

    Args:
        paths: files and folders.
        weights: ``syncnet_v2.model``, or its copy in safetensors format.
        variant: a name in :data:`PROCEDURES`.
        log: takes lines of progress.

    Returns:
        The report; videos that cannot be measured are in ``skipped``.

    Raises:
        ValueError: for an unknown variant, a folder without videos, or unfit weights.
        FileNotFoundError: for a path that does not exist.
    """
    over = procedure(variant).mean_over
    files = list(dict.fromkeys(video for path in paths for video in find_videos(path)))
    net = load_syncnet(weights)
    digest = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    videos: list[LseVideo] = []
    skipped: list[SkippedVideo] = []
    progress = Progress(log, len(files), "videos")

    def on_progress(share: float) -> None:
        progress.update(len(videos) + len(skipped) + share)

    for file in files:
        try:
            videos.append(measure_video(net, file, variant, on_progress))
        except (ValueError, OSError) as error:
            skipped.append({"video": str(file), "reason": str(error)})
    tracks = [track for video in videos for track in video["tracks"]]
    rows: Sequence[LseMeasures] = tracks if over == "tracks" else videos
    return {
        "variant": variant,
        "weights_sha256": digest,
        "n_videos": len(videos),
        "n_tracks": len(tracks),
        "n_skipped": len(skipped),
        "means": {**average(rows), "over": over} if videos else None,
        "videos": videos,
        "skipped": skipped,
    }
