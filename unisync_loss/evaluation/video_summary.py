"""What the scores of a video say: numbers ready for JSON, as lines of a table, as rows of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, WINDOW_FRAMES
from unisync_loss.evaluation.offsets import MAX_OFFSET, find_drift, find_offset, local_offsets
from unisync_loss.evaluation.video_scores import TrackScores, VideoScores
from unisync_loss.video.voicing import voiced_by_level

FRAME_MS = 1000 // FPS
LOCAL_WINDOWS = 100  # 4 s, of an offset read at one place
_SPEAKING_WINDOWS = 25  # 1 s over which it is judged who speaks

Array = NDArray[np.float64]


def judge(name: str, scores: VideoScores, threshold: float, seed: int = 0) -> dict[str, Any]:
    """Everything measured of a video.

    Args:
        name: of the video.
        scores: of :func:`unisync_loss.evaluation.video_scores.score_video`.
        threshold: probability above which a window counts as in sync; the checkpoint's own.
        seed: of the intervals.

    Returns:
        ``{"video", "seconds", "speaker_track", "tracks", "dropped", "notes"}``; see :func:`judge_track`.

    Raises:
        ValueError: when no window of any face has audio beside it.
    """
    heard = [track for track in scores.tracks if not np.isnan(track.table).all()]
    if not heard:
        raise ValueError(f"{name}: expected sound while a face is on show, got none")
    tracks = [judge_track(number, track, threshold, seed) for number, track in enumerate(heard)]
    speaking, voiced = who_speaks(heard, _main_offset(tracks), threshold)
    for track, mine, sounding in zip(tracks, speaking, voiced, strict=True):
        track["speaking_share"] = round(mine / sounding, 4) if sounding else None
    return {
        "video": name,
        "seconds": round(scores.seconds, 2),
        "speaker_track": int(np.argmax(speaking)) if any(speaking) else None,
        "tracks": tracks,
        "dropped": list(scores.dropped),
        "notes": list(scores.notes),
    }


def judge_track(number: int, track: TrackScores, threshold: float, seed: int = 0) -> dict[str, Any]:
    """Everything measured of one face.

    ``probability`` holds the score of every window of 0.2 s as the video is, a value a frame, null where the sound is
    missing; shares and means are of those. ``confidence``: see :class:`unisync_loss.evaluation.offsets.Offset`.

    Args:
        number: of the track in the report.
        track: its scores, some of them numbers.
        threshold: probability above which a window counts as in sync.
        seed: of the intervals.

    Returns:
        The measures.
    """
    table = track.table.astype(np.float64)
    shown = table[:, MAX_OFFSET]
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
        "probability_mean": _mean(shown),
        "probability_mean_at_offset": _mean(table[:, offset.frames + MAX_OFFSET]),
        "share_in_sync": _mean(_above(shown, threshold)),
        "voiced": {"probability_mean": _mean(shown[voiced]), "share_in_sync": _mean(_above(shown[voiced], threshold))},
        "unvoiced": {
            "probability_mean": _mean(shown[~voiced]),
            "share_in_sync": _mean(_above(shown[~voiced], threshold)),
        },
        "voiced_share": round(float(voiced.mean()), 4),
        "drift_ms_per_minute": round(drift.ms_per_minute, 2) if drift else None,
        "drift_ci95": [round(drift.low, 2), round(drift.high, 2)] if drift else None,
        "offset_over_time": _over_time(table, track.start),
        "probability": [None if np.isnan(value) else round(float(value), 4) for value in shown],
        "fps": FPS,
    }


def _over_time(table: Array, start: int) -> list[dict[str, Any]]:
    places, frames, confidence = local_offsets(table, LOCAL_WINDOWS)
    return [
        {"seconds": round((start + int(place)) / FPS, 2), "offset_frames": int(offset), "confidence": round(sure, 4)}
        for place, offset, sure in zip(places, frames, confidence.tolist(), strict=True)
    ]


def who_speaks(tracks: Sequence[TrackScores], offset: int, threshold: float) -> tuple[list[int], list[int]]:
    """Give every voiced window to the face that fits it best, if one does.

    A face fits by the mean of a second around the window, at the offset of the video: a face of its own offset would
    always find one that suits it.

    Args:
        tracks: of one video.
        offset: of the video in frames.
        threshold: mean probability that a speaker reaches.

    Returns:
        Windows given to each track, and voiced windows of each.
    """
    end = max(track.start + len(track.table) for track in tracks)
    best, owner = np.full(end, threshold), np.full(end, -1)
    voiced = []
    for number, track in enumerate(tracks):
        values = track.table[:, offset + MAX_OFFSET].astype(np.float64)
        place = slice(track.start, track.start + len(values))
        steady = np.where(voiced_by_level(track.level.astype(np.float64)), _running_mean(values), -np.inf)
        voiced.append(int(np.isfinite(steady).sum()))
        better = steady > best[place]
        best[place] = np.where(better, steady, best[place])
        owner[place] = np.where(better, number, owner[place])
    return [int((owner == number).sum()) for number in range(len(tracks))], voiced


def _main_offset(tracks: Sequence[Mapping[str, Any]]) -> int:
    return int(max(tracks, key=lambda track: track["confidence"] * track["offset_agreement"])["offset_frames"])


def _running_mean(values: Array) -> Array:
    there = ~np.isnan(values)
    kernel = np.ones(min(_SPEAKING_WINDOWS, len(values)))
    counts = np.convolve(there, kernel, "same")
    sums = np.convolve(np.where(there, values, 0), kernel, "same")
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


def _above(values: Array, threshold: float) -> Array:
    return np.where(np.isnan(values), np.nan, values > threshold)


def _mean(values: Array) -> float | None:
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 4)


COLUMNS = (
    "video", "track", "start", "seconds", "offset_frames", "offset_ms", "offset_low", "offset_high", "confidence",
    "offset_agreement", "probability_mean", "probability_mean_at_offset", "share_in_sync",
    "voiced_probability_mean", "voiced_share_in_sync", "unvoiced_probability_mean", "unvoiced_share_in_sync",
    "voiced_share", "speaking_share", "speaker_track", "drift_ms_per_minute", "drift_low", "drift_high", "error",
)  # fmt: skip


def to_csv(videos: Sequence[Mapping[str, Any]]) -> str:
    """One row a track, one a video that could not be scored."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for video in videos:
        if "error" in video:
            writer.writerow({"video": video["video"], "error": video["error"]})
        for track in video.get("tracks", ()):
            (low, high), drift = track["offset_ci95"], track["drift_ci95"] or (None, None)
            parts = {f"{part}_{name}": value for part in ("voiced", "unvoiced") for name, value in track[part].items()}
            row = {"video": video["video"], "speaker_track": video["speaker_track"], **track, **parts}
            row |= {"offset_low": low, "offset_high": high, "drift_low": drift[0], "drift_high": drift[1]}
            writer.writerow(row)
    return text.getvalue()


def to_lines(videos: Sequence[Mapping[str, Any]]) -> str:
    """The table for people."""
    lines = []
    if any("tracks" in video for video in videos):
        lines += [
            f"offset in frames of {FRAME_MS} ms, + = audio late; in sync: share of windows, of voiced and of others",
            "offset      ms      95 %  confidence  probability  in sync  voiced  others  speaks  drift ms/min",
        ]
    for video in videos:
        if "error" in video:
            lines.append(f"{video['video']}: not scored: {video['error']}")
            continue
        several = len(video["tracks"]) > 1
        lines += [_line(video, track, several=several) for track in video["tracks"]]
        lines += [f"{video['video']}: {note}" for note in video["notes"]]
        if video["dropped"]:
            more = f"; {len(video['dropped']) - 1} more left out" if video["dropped"][1:] else ""
            lines.append(f"{video['video']}: left out: {video['dropped'][0]}{more}")
    return "\n".join(lines)


def _line(video: Mapping[str, Any], track: Mapping[str, Any], *, several: bool) -> str:
    """A face in one line."""
    low, high = track["offset_ci95"]
    drift = track["drift_ms_per_minute"]
    cells = (
        f"{track['offset_frames']:+6d}",
        f"{track['offset_ms']:+6d}",
        f"{f'{low:+d}…{high:+d}':>8}",
        f"{track['confidence']:10.2f}",
        f"{_text(track['probability_mean']):>11}",
        f"{_text(track['share_in_sync']):>7}",
        f"{_text(track['voiced']['share_in_sync']):>6}",
        f"{_text(track['unvoiced']['share_in_sync']):>6}",
        f"{_text(track['speaking_share']):>6}",
        f"{'-' if drift is None else f'{drift:+.0f}':>12}",
    )
    place = f"face {track['track']}, {track['start']:.1f} to {track['start'] + track['seconds']:.1f} s"
    who = " (who speaks)" if several and track["track"] == video["speaker_track"] else ""
    return f"{'  '.join(cells)}  {video['video']}, {place}{who}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
