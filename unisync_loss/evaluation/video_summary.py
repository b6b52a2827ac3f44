"""Summary of a video's scores: measures per face ready for JSON, as text and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import torch

from unisync_loss.config import FPS, WINDOW_FRAMES
from unisync_loss.evaluation.offsets import MAX_OFFSET, find_drift, find_offset, local_offsets
from unisync_loss.evaluation.results import LocalOffset, ScoredVideo, TrackResult, VideoResult
from unisync_loss.evaluation.video_scores import TrackScores, VideoScores
from unisync_loss.functional import calibrated_probability
from unisync_loss.utils.tensors import Array
from unisync_loss.video.voicing import voiced_by_level

FRAME_MS = 1000 // FPS
LOCAL_WINDOWS = 100  # 4 s per local offset: a single second may hold one closed mouth or one pause
_SPEAKING_WINDOWS = 25  # 1 s over which the speaking face is decided


def summarise_video(
    name: str, scores: VideoScores, threshold: float, seed: int = 0, calibration: tuple[float, float] | None = None
) -> ScoredVideo:
    """Measure a video.

    Args:
        name: of the video.
        scores: of :func:`unisync_loss.evaluation.video_scores.score_video`.
        threshold: probability above which a window counts as in sync; the checkpoint's own.
        seed: of the intervals.
        calibration: temperature and midpoint of the checkpoint; None for one without.

    Returns:
        The measures, one track per face that has a score; see :func:`summarise_track`.

    Raises:
        ValueError: when no window of any face has audio.
    """
    scored = [track for track in scores.tracks if track.has_scores]
    if not scored:
        raise ValueError(f"{name}: expected audio while a face is visible, got none")
    tracks = [summarise_track(number, track, threshold, seed, calibration) for number, track in enumerate(scored)]
    speaking, voiced = who_speaks(scored, _main_offset(tracks), threshold)
    for track, given, total in zip(tracks, speaking, voiced, strict=True):
        track["speaking_share"] = round(given / total, 4) if total else None
    return {
        "video": name,
        "seconds": round(scores.seconds, 2),
        "speaker_track": int(np.argmax(speaking)) if any(speaking) else None,
        "tracks": tracks,
        "dropped": list(scores.dropped),
        "notes": list(scores.notes),
    }


def summarise_track(
    number: int, track: TrackScores, threshold: float, seed: int = 0, calibration: tuple[float, float] | None = None
) -> TrackResult:
    """Measure one face.

    ``probability`` holds the score of every window of 0.2 s at offset 0, one value per frame, None without audio;
    shares and means are over these. ``confidence``: see :class:`unisync_loss.evaluation.offsets.Offset`.
    ``speaking_share`` depends on the other faces of the video and is None here.

    Args:
        number: of the track in the report.
        track: its scores, at least one of them a number.
        threshold: probability above which a window counts as in sync.
        seed: of the intervals.
        calibration: temperature and midpoint of the checkpoint; None for one without.

    Returns:
        The measures.
    """
    table = track.table.astype(np.float64)
    probability = table[:, MAX_OFFSET]
    in_sync = np.where(np.isnan(probability), np.nan, probability > threshold)
    voiced = voiced_by_level(track.level.astype(np.float64))
    offset, drift = find_offset(table, seed), find_drift(table, seed)
    return {
        "track": number,
        "start": round(track.start / FPS, 2),
        "seconds": round((len(table) + WINDOW_FRAMES - 1) / FPS, 2),
        "offset_frames": offset.frames,
        "offset_ms": offset.frames * FRAME_MS,
        "offset_ci95": [offset.low, offset.high],
        "offset_agreement": round(offset.agreement, 4),
        "confidence": round(offset.confidence, 4),
        "probability_mean": _mean(probability),
        "probability_mean_at_offset": _mean(table[:, offset.frames + MAX_OFFSET]),
        "calibrated_mean": _calibrated_mean(probability, calibration),
        "calibrated_mean_at_offset": _calibrated_mean(table[:, offset.frames + MAX_OFFSET], calibration),
        "share_in_sync": _mean(in_sync),
        "voiced": {"probability_mean": _mean(probability[voiced]), "share_in_sync": _mean(in_sync[voiced])},
        "unvoiced": {"probability_mean": _mean(probability[~voiced]), "share_in_sync": _mean(in_sync[~voiced])},
        "voiced_share": round(float(voiced.mean()), 4),
        "drift_ms_per_minute": round(drift.ms_per_minute, 2) if drift else None,
        "drift_ci95": [round(drift.low, 2), round(drift.high, 2)] if drift else None,
        "offset_over_time": _over_time(table, track.start),
        "probability": [None if np.isnan(value) else round(float(value), 4) for value in probability],
        "fps": FPS,
        "speaking_share": None,
    }


def _calibrated_mean(probability: Array, calibration: tuple[float, float] | None) -> float | None:
    return _mean(calibrated_probability(torch.from_numpy(probability), *calibration).numpy()) if calibration else None


def _over_time(table: Array, start: int) -> list[LocalOffset]:
    middles, frames, confidence = local_offsets(table, LOCAL_WINDOWS)
    return [
        {"seconds": round((start + int(middle)) / FPS, 2), "offset_frames": int(offset), "confidence": round(value, 4)}
        for middle, offset, value in zip(middles, frames, confidence.tolist(), strict=True)
    ]


def who_speaks(tracks: Sequence[TrackScores], offset: int, threshold: float) -> tuple[list[int], list[int]]:
    """Assign every voiced window to the face with the highest score, if that exceeds the threshold.

    The score is the mean over a second around the window, at the offset of the video: at an offset of its own, each
    face would be rated by its best coincidence.

    Args:
        tracks: of one video.
        offset: of the video in frames.
        threshold: mean probability that a speaker must exceed.

    Returns:
        Windows assigned to each track, and voiced windows of each.
    """
    end = max(track.start + len(track.table) for track in tracks)
    best, owner = np.full(end, threshold), np.full(end, -1)  # -1 where no face exceeds the threshold
    voiced = []
    for number, track in enumerate(tracks):
        values = track.table[:, offset + MAX_OFFSET].astype(np.float64)
        span = slice(track.start, track.start + len(values))
        score = np.where(voiced_by_level(track.level.astype(np.float64)), _running_mean(values), -np.inf)
        voiced.append(int(np.isfinite(score).sum()))
        better = score > best[span]
        best[span] = np.where(better, score, best[span])
        owner[span] = np.where(better, number, owner[span])
    return [int((owner == number).sum()) for number in range(len(tracks))], voiced


def _main_offset(tracks: Sequence[TrackResult]) -> int:
    # the face that the audio belongs to: the others have low confidence, or an offset that differs from draw to draw
    return max(tracks, key=lambda track: track["confidence"] * track["offset_agreement"])["offset_frames"]


def _running_mean(values: Array) -> Array:
    known = ~np.isnan(values)
    kernel = np.ones(min(_SPEAKING_WINDOWS, len(values)))
    counts = np.convolve(known, kernel, "same")
    sums = np.convolve(np.where(known, values, 0), kernel, "same")
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


def _mean(values: Array) -> float | None:
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 4)


COLUMNS = (
    "video", "track", "start", "seconds", "offset_frames", "offset_ms", "offset_low", "offset_high", "confidence",
    "offset_agreement", "probability_mean", "probability_mean_at_offset", "calibrated_mean",
    "calibrated_mean_at_offset", "share_in_sync",
    "voiced_probability_mean", "voiced_share_in_sync", "unvoiced_probability_mean", "unvoiced_share_in_sync",
    "voiced_share", "speaking_share", "speaker_track", "drift_ms_per_minute", "drift_low", "drift_high", "error",
)  # fmt: skip


def score_csv(videos: Sequence[VideoResult]) -> str:
    """CSV with one row per face, and one per video that could not be scored."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for video in videos:
        if "error" in video:
            writer.writerow({"video": video["video"], "error": video["error"]})
            continue
        for track in video["tracks"]:
            (low, high), drift = track["offset_ci95"], track["drift_ci95"] or (None, None)
            groups = {"voiced": track["voiced"], "unvoiced": track["unvoiced"]}
            parts = {f"{group}_{name}": value for group, means in groups.items() for name, value in means.items()}
            row = {"video": video["video"], "speaker_track": video["speaker_track"], **track, **parts}
            row |= {"offset_low": low, "offset_high": high, "drift_low": drift[0], "drift_high": drift[1]}
            writer.writerow(row)
    return text.getvalue()


def score_table(videos: Sequence[VideoResult]) -> str:
    """Results as text, one line per face."""
    lines = []
    if not all("error" in video for video in videos):
        lines += [
            f"offset in frames of {FRAME_MS} ms, + = audio late; in sync: share of windows, of voiced and of others",
            "offset      ms      95 %  confidence  probability  in sync  voiced  others  speaks  drift ms/min",
        ]
    for video in videos:
        if "error" in video:
            lines.append(f"{video['video']}: not scored: {video['error']}")
            continue
        lines += [_line(video, track) for track in video["tracks"]]
        lines += [f"{video['video']}: {note}" for note in video["notes"]]
        if video["dropped"]:
            more = f"; {len(video['dropped']) - 1} more skipped" if video["dropped"][1:] else ""
            lines.append(f"{video['video']}: skipped: {video['dropped'][0]}{more}")
    return "\n".join(lines)


def _line(video: ScoredVideo, track: TrackResult) -> str:
    low, high = track["offset_ci95"]
    drift = track["drift_ms_per_minute"]
    cells = (
        f"{track['offset_frames']:+6d}",
        f"{track['offset_ms']:+6d}",
        f"{f'{low:+d}…{high:+d}':>8}",
        f"{track['confidence']:10.2f}",
        f"{format_share(track['probability_mean']):>11}",
        f"{format_share(track['share_in_sync']):>7}",
        f"{format_share(track['voiced']['share_in_sync']):>6}",
        f"{format_share(track['unvoiced']['share_in_sync']):>6}",
        f"{format_share(track['speaking_share']):>6}",
        f"{'-' if drift is None else f'{drift:+.0f}':>12}",
    )
    span = f"face {track['track']}, {track['start']:.1f} to {track['start'] + track['seconds']:.1f} s"
    speaker = " (speaker)" if len(video["tracks"]) > 1 and track["track"] == video["speaker_track"] else ""
    return f"{'  '.join(cells)}  {video['video']}, {span}{speaker}"


def format_share(value: float | None) -> str:
    """Two decimals, or a dash for None."""
    return "-" if value is None else f"{value:.2f}"
