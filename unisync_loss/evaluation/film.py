"""The scored video with the probability under the picture, a cursor where it plays; written in constant memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, WINDOW_FRAMES
from unisync_loss.evaluation.offsets import MAX_OFFSET
from unisync_loss.evaluation.video_scores import MOST_FACES, OnProgress, TrackScores, VideoScores
from unisync_loss.utils.files import atomic_path
from unisync_loss.utils.plotting import COLOURS, FAINT, INK, moving_average, new_figure, style_axes
from unisync_loss.video.clip import every_frame
from unisync_loss.video.decoding import AudioReader, open_media, read_facts, stream_audio, stream_frames
from unisync_loss.video.face_detection import Frame

PAGE_SECONDS = 10  # of the curve that are on show at a time
_SHORT_SIDE = 540  # pixels; larger pictures are shrunk
_STRIP, _LEAST_STRIP = 0.3, 120  # height of the curve: share of the picture's, and pixels at least
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 10, 24  # pixels around the curve
_COLOURS = (COLOURS["unisync"], COLOURS["reconstruction"], COLOURS["truth"], FAINT)


def write_film(
    source: str | os.PathLike[str],
    scores: VideoScores,
    threshold: float,
    out: str | os.PathLike[str],
    on_progress: OnProgress = lambda done, seconds: None,
) -> None:
    """Write a video (MP4, H.264, AAC) with the curves of its first four faces burnt in below the picture.

    Args:
        source: the video that was scored.
        scores: of it.
        threshold: drawn as a line.
        out: the file; its folder must exist.
        on_progress: takes the seconds done and the seconds in all.

    Raises:
        ValueError: when the source cannot be decoded.
        ImportError: without matplotlib.
    """
    import av

    zero = read_facts(source).zero
    with (
        atomic_path(out) as temporary,
        open_media(source) as pictures,
        open_media(source) as sounds,
        av.open(str(temporary), "w", format="mp4") as film,
    ):
        audio = film.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        video = film.add_stream("libx264", rate=FPS, options={"crf": "20"})
        video.pix_fmt = "yuv420p"
        sound = AudioReader(stream_audio(sounds, zero))
        shown = every_frame(stream_frames(pictures, short_side=_SHORT_SIDE))
        for tick, picture in enumerate(with_curve(shown, scores, threshold)):
            if tick == 0:
                video.height, video.width = picture.shape[:2]
            film.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            heard = sound.read(tick * SAMPLES_PER_FRAME, (tick + 1) * SAMPLES_PER_FRAME)
            heard = np.pad(heard, (0, SAMPLES_PER_FRAME - heard.size))
            block = av.AudioFrame.from_ndarray(heard[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, tick * SAMPLES_PER_FRAME
            film.mux(audio.encode(block))
            on_progress((tick + 1) / FPS, scores.seconds)
        film.mux(video.encode(None))
        film.mux(audio.encode(None))


def with_curve(frames: Iterator[Frame], scores: VideoScores, threshold: float) -> Iterator[Frame]:
    """Frames (H, W, 3) with the curve of their ten seconds below, a line where they are; height and width even."""
    page: Frame | None = None
    for tick, frame in enumerate(frames):
        frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
        place = tick % (PAGE_SECONDS * FPS)
        if page is None or place == 0:
            height = max(_LEAST_STRIP, round(_STRIP * frame.shape[0] / 2) * 2)
            page = draw_page(scores, threshold, tick / FPS, frame.shape[1], height)
        strip = page.copy()
        across = LEFT + round((frame.shape[1] - LEFT - RIGHT) * place / (PAGE_SECONDS * FPS))
        strip[:, across : across + 2] = (200, 30, 30)
        yield np.concatenate([frame, strip])


def draw_page(scores: VideoScores, threshold: float, begin: float, width: int, height: int) -> Frame:
    """Ten seconds of the curves, (height, width, 3) uint8: thin as they are, thick over a second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = new_figure(width / 100, height / 100)
    inner = (width - LEFT - RIGHT) / width, (height - TOP - BOTTOM) / height
    axes = figure.add_axes((LEFT / width, BOTTOM / height, *inner))
    heard = [track for track in scores.tracks if not np.isnan(track.table).all()][:MOST_FACES]
    for number, (track, colour) in enumerate(zip(heard, _COLOURS, strict=False)):
        times, values = _curve(track)
        # a second more on either side, so that the mean does not start anew with every page
        near = (times > begin - 1) & (times < begin + PAGE_SECONDS + 1) & ~np.isnan(values)
        if not near.any():
            continue
        axes.plot(times[near], values[near], color=colour, alpha=0.35, lw=0.8)
        axes.plot(times[near], moving_average(values[near].tolist(), FPS), color=colour, lw=1.8, label=f"face {number}")
    axes.axhline(threshold, color=FAINT, ls="--", lw=1)
    axes.set_xlim(begin, begin + PAGE_SECONDS)
    axes.set_ylim(0, 1)
    axes.text(0.01, 0.03, "sync probability; seconds", transform=axes.transAxes, fontsize=8, color=INK)
    style_axes(axes, "", "", legend=len(heard) > 1)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page: Frame = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    return page


def _curve(track: TrackScores) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Seconds of the middle of every window, and its probability as the video is."""
    values = track.table[:, MAX_OFFSET]
    return (track.start + np.arange(len(values)) + WINDOW_FRAMES / 2) / FPS, values
