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

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from unisync_loss.lse.distances import LseMeter, summarise
from unisync_loss.lse.reading import read_crops
from unisync_loss.lse.results import LseMeasures, LseReport, LseTrack, LseVideo, SkippedVideo, average
from unisync_loss.lse.syncnet import SyncNet, load_syncnet
from unisync_loss.utils.hub import file_sha256
from unisync_loss.utils.process_pool import iterate
from unisync_loss.utils.progress import Progress
from unisync_loss.video.clip import find_videos
from unisync_loss.video.encoding import to_int16
from unisync_loss.video.reading import SILENT_END, check_audio, read_sound


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
    net: SyncNet,
    path: str | os.PathLike[str],
    variant: str,
    on_progress: Callable[[float], None] = lambda share: None,
    *,
    audio: str | os.PathLike[str] | None = None,
    isolated: bool = False,
) -> LseVideo:
    """LSE of one video.

    Args:
        net: of :func:`unisync_loss.lse.syncnet.load_syncnet`.
        path: the file.
        variant: a name in :data:`PROCEDURES`.
        on_progress: takes the share of the video that is done.
        audio: file whose sound is taken, which begins with the first frame; default that of the video.
        isolated: decode and find faces in another process, so that a file that crashes or blocks FFmpeg or MediaPipe is
            a ValueError, see :func:`unisync_loss.utils.process_pool.iterate_isolated`.

    Returns:
        Measures of the video and of its tracks. Distances and confidences of a video are means over its tracks; its
        offset is that of the longest track, for ``latentsync`` the mean, truncated to a whole number.

    Raises:
        ValueError: for an unknown variant, a file that cannot be decoded, or one without a face track long enough.
        FileNotFoundError: when there is no such file.
    """
    min_track = procedure(variant).min_track
    rows: list[LseTrack] = []
    meters: dict[int, LseMeter] = {}  # of the tracks that run: only these hold frames
    with closing(iterate(read_crops, path, min_track, audio, isolated=isolated)) as steps:
        opened, spans = next(steps), next(steps)
        samples = _read_samples(*((path, opened.facts.zero) if audio is None else (audio, None)), isolated=isolated)
        for frames, (share, crops) in enumerate(steps, 1):  # noqa: B007 - the last number is their count
            for number, crop in crops:
                start, length = spans[number]
                if number not in meters:
                    end = None if length is None else (start + length) * SAMPLES_PER_FRAME
                    meters[number] = LseMeter(net, samples[start * SAMPLES_PER_FRAME : end])
                meters[number].add(torch.from_numpy(crop))
                if meters[number].frames == length:
                    rows.append(track_row(meters.pop(number), len(rows), start))
            on_progress(share)
    if min_track is None:
        rows = [track_row(meters[0], 0, 0)]
    notes = list(opened.notes)
    seconds, audible = frames / FPS, samples.size / SAMPLE_RATE
    if audible < seconds - SILENT_END:
        notes.append(f"the audio ends at {audible:.1f} of {seconds:.1f} s: the rest is not measured")
    return video_row(str(path), rows, variant, notes)


def _read_samples(path: str | os.PathLike[str], zero: float | None, *, isolated: bool) -> NDArray[np.int16]:
    """Audio (S,) at 16 kHz from the first frame on; 32 kB per second, so all of it fits in memory."""
    samples = bytearray()
    with closing(iterate(read_sound, path, zero, isolated=isolated)) as blocks:
        for block in blocks:
            samples += to_int16(block).tobytes()
    return np.frombuffer(samples, np.int16)


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


def video_row(video: str, tracks: list[LseTrack], variant: str, notes: Sequence[str] = ()) -> LseVideo:
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
        "notes": list(notes),
        "tracks": tracks,
    }


def measure_videos(
    paths: Sequence[Path], weights: Path, variant: str, log: Callable[[str], None], *, audio: Path | None = None
) -> LseReport:
    """LSE of videos and folders of videos.

    Args:
        paths: files and folders.
        weights: ``syncnet_v2.model``, or its copy in safetensors format.
        variant: a name in :data:`PROCEDURES`.
        log: takes lines of progress.
        audio: file whose sound is taken; of one video only.

    Returns:
        The report; videos that cannot be measured are in ``skipped``.

    Raises:
        ValueError: for an unknown variant, a folder without videos, unfit weights, or ``audio`` with several videos.
        FileNotFoundError: for a path that does not exist.
    """
    over = procedure(variant).mean_over
    files = list(dict.fromkeys(video for path in paths for video in find_videos(path)))
    check_audio(audio, len(files))
    net = load_syncnet(weights)
    digest = file_sha256(Path(weights))
    videos: list[LseVideo] = []
    skipped: list[SkippedVideo] = []
    progress = Progress(log, len(files), "videos")

    def on_progress(share: float) -> None:
        progress.update(len(videos) + len(skipped) + share)

    for file in files:
        try:
            videos.append(measure_video(net, file, variant, on_progress, audio=audio, isolated=True))
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
