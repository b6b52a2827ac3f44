"""Scored video with its probability curve below the image and a cursor at the current time, in constant memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.evaluation.video_scores import MAX_DRAWN_FACES, OnProgress, TrackScores, VideoScores
from unisync_loss.utils.files import atomic_path
from unisync_loss.utils.plotting import COLOURS, FAINT, INK, figure_pixels, moving_average, new_figure, style_axes
from unisync_loss.utils.process_pool import iterate
from unisync_loss.video.audio_decoding import AudioReader
from unisync_loss.video.face_detection import Frame
from unisync_loss.video.reading import read_frames, read_sound

PAGE_SECONDS = 10  # of the curve that are visible at a time
_SHORT_SIDE = 540  # pixels; larger frames are shrunk
_STRIP, _MIN_STRIP = 0.3, 120  # height of the curve: share of the frame's, and the minimum in pixels
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 10, 24  # pixels around the curve
_COLOURS = (COLOURS["unisync"], COLOURS["reconstruction"], COLOURS["truth"], FAINT)


def write_film(
    source: str | os.PathLike[str],
    scores: VideoScores,
    threshold: float,
    out: str | os.PathLike[str],
    on_progress: OnProgress = lambda done, seconds: None,
    *,
    isolated: bool = False,
) -> None:
    """Write a video (MP4, H.264, AAC) with the curves of its first four faces drawn below the image.

    Args:
        source: the video that was scored.
        scores: of the same video.
        threshold: drawn as a line.
        out: the file; its folder must exist.
        on_progress: takes the seconds done and the seconds in all.
        isolated: decode in another process, as in :func:`.video_scores.score_video`.

    Raises:
        ValueError: when the source cannot be decoded.
        ImportError: without matplotlib.
    """
    import av

    with (
        atomic_path(out) as temporary,
        closing(iterate(read_frames, source, _SHORT_SIDE, isolated=isolated)) as frames,
        closing(iterate(read_sound, source, isolated=isolated)) as blocks,
        av.open(str(temporary), "w", format="mp4") as film,
    ):
        audio = film.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        video = film.add_stream("libx264", rate=FPS, options={"crf": "20"})
        video.pix_fmt = "yuv420p"
        sound = AudioReader(blocks)
        for tick, frame in enumerate(with_curve(frames, scores, threshold)):
            if tick == 0:
                video.height, video.width = frame.shape[:2]
            film.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            samples = sound.read(tick * SAMPLES_PER_FRAME, (tick + 1) * SAMPLES_PER_FRAME)
            samples = np.pad(samples, (0, SAMPLES_PER_FRAME - samples.size))
            block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, tick * SAMPLES_PER_FRAME
            film.mux(audio.encode(block))
            on_progress((tick + 1) / FPS, scores.seconds)
        film.mux(video.encode(None))
        film.mux(audio.encode(None))


def with_curve(frames: Iterator[Frame], scores: VideoScores, threshold: float) -> Iterator[Frame]:
    """Append the curve of the current ten seconds and a cursor to frames (H, W, 3); the sides are made even."""
    page: Frame | None = None
    for tick, frame in enumerate(frames):
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
        position = tick % (PAGE_SECONDS * FPS)
        if page is None or position == 0:
            height = max(_MIN_STRIP, round(_STRIP * frame.shape[0] / 2) * 2)
            page = draw_page(scores, threshold, tick / FPS, frame.shape[1], height)
        strip = page.copy()
        x = LEFT + round((frame.shape[1] - LEFT - RIGHT) * position / (PAGE_SECONDS * FPS))
        strip[:, x : x + 2] = (200, 30, 30)
        yield np.concatenate([frame, strip])


def draw_page(scores: VideoScores, threshold: float, begin: float, width: int, height: int) -> Frame:
    """Draw ten seconds of the curves, (height, width, 3) uint8: per window (thin) and mean over a second (thick)."""
    figure = new_figure(width / 100, height / 100)
    inner = (width - LEFT - RIGHT) / width, (height - TOP - BOTTOM) / height
    axes = figure.add_axes((LEFT / width, BOTTOM / height, *inner))
    tracks = [track for track in scores.tracks if track.has_scores][:MAX_DRAWN_FACES]
    for number, (track, colour) in enumerate(zip(tracks, _COLOURS, strict=False)):
        times, values = _curve(track)
        # a second more on either side, so that the running mean does not restart on every page
        near = (times > begin - 1) & (times < begin + PAGE_SECONDS + 1) & ~np.isnan(values)
        if not near.any():
            continue
        axes.plot(times[near], values[near], color=colour, alpha=0.35, lw=0.8)
        axes.plot(times[near], moving_average(values[near].tolist(), FPS), color=colour, lw=1.8, label=f"face {number}")
    axes.axhline(threshold, color=FAINT, ls="--", lw=1)
    axes.set_xlim(begin, begin + PAGE_SECONDS)
    axes.set_ylim(0, 1)
    axes.text(0.01, 0.03, "sync probability; seconds", transform=axes.transAxes, fontsize=8, color=INK)
    style_axes(axes, "", "", legend=len(tracks) > 1)
    return figure_pixels(figure)


def _curve(track: TrackScores) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Time of the middle of every window in seconds, and its probability at offset 0."""
    values = track.table[:, MAX_OFFSET]
    return (track.start + np.arange(len(values)) + WINDOW_FRAMES / 2) / FPS, values
