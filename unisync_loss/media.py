"""Decode and encode clips with PyAV, by time stamps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer


class Clip(NamedTuple):
    """A decoded clip.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB at 25 fps.
        waveform: (640 * T,) float32 mono at 16 kHz in [-1, 1], cut or padded with zeros to the frames.
    """

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]


def read_clip(path: str | os.PathLike[str], *, max_frames: int | None = None) -> Clip:
    """Decode a video file to 25 fps frames and a 16 kHz waveform that share one zero of time.

    Frame t is the picture on show at ``t / 25`` s after the first picture, whatever the file's own rate; the start
    offsets of both streams are honoured.

    Args:
        path: any file that FFmpeg reads.
        max_frames: stop after so many frames; None reads all.

    Returns:
        The clip.

    Raises:
        ValueError: when the file cannot be decoded, or lacks a video or an audio stream.
        FileNotFoundError: when there is no such file.
    """
    import av  # loaded here: `import unisync_loss` must not need PyAV

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such video file: {path}")
    try:
        with av.open(str(path)) as container:
            for kind in ("video", "audio"):
                if not getattr(container.streams, kind):
                    raise ValueError(f"{path}: expected a video with sound, got no {kind} stream")
            container.streams.video[0].thread_type = "AUTO"
            frames, start = _decode_video(container, max_frames)
        with av.open(str(path)) as container:
            waveform = _decode_audio(container, start, len(frames) * SAMPLES_PER_FRAME)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be decoded ({error})") from error
    return Clip(frames, waveform)


def _decode_video(container: InputContainer, max_frames: int | None) -> tuple[NDArray[np.uint8], float]:
    pictures: list[NDArray[np.uint8]] = []
    times: list[float] = []
    for index, frame in enumerate(container.decode(video=0)):
        time = frame.time if frame.time is not None else index / FPS
        if max_frames is not None and times and time - times[0] > max_frames / FPS:
            break
        picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        pictures.append(upright(picture, frame.rotation))
        times.append(time)
    if not pictures:
        raise ValueError("expected a video with at least one frame, got none")
    order = np.argsort(times, kind="stable")
    stamps = np.asarray(times)[order]
    period = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 1 / FPS
    total = max(1, round((stamps[-1] - stamps[0] + period) * FPS))
    total = total if max_frames is None else min(total, max_frames)
    # the last picture whose time stamp is not after the tick; half a millisecond absorbs rounded stamps
    ticks = stamps[0] + np.arange(total) / FPS + 5e-4
    shown = np.searchsorted(stamps, ticks, side="right") - 1
    return np.stack([pictures[order[index]] for index in shown]), float(stamps[0])


def upright(picture: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """Turn a decoded (H, W, 3) picture by the degrees that its file asks for."""
    return np.ascontiguousarray(np.rot90(picture, round(rotation / 90))) if rotation else picture


def _decode_audio(container: InputContainer, start: float, samples: int) -> NDArray[np.float32]:
    import av

    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    pieces: list[NDArray[np.float32]] = []
    first: float | None = None
    heard = 0
    for frame in _with_flush(container.decode(audio=0)):
        if frame is not None and first is None:
            first = frame.time or 0.0
        for piece in resampler.resample(frame):
            pieces.append(piece.to_ndarray()[0])
            heard += pieces[-1].size
        if first is not None and heard / SAMPLE_RATE + first - start > samples / SAMPLE_RATE + 1:
            break
    if first is None:
        raise ValueError("expected an audio stream with samples, got none")
    sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    lead = round((first - start) * SAMPLE_RATE)
    sound = np.pad(sound, (lead, 0)) if lead > 0 else sound[-lead:]
    return np.pad(sound[:samples], (0, max(0, samples - sound.size))).astype(np.float32)


def _with_flush(frames: Iterable[Any]) -> Iterator[Any]:
    yield from frames
    yield None


def write_clip(
    path: str | os.PathLike[str],
    frames: NDArray[np.uint8],
    waveform: NDArray[np.float32] | None = None,
    *,
    fps: int = FPS,
    sample_rate: int = SAMPLE_RATE,
    crf: int = 23,
) -> None:
    """Write an MP4 file (H.264, AAC), under a temporary name first.

    Args:
        path: the file; its folder must exist.
        frames: (T, H, W, 3) uint8 RGB; H and W even.
        waveform: (S,) float32 mono in [-1, 1]; None writes no sound.
        fps: frames per second.
        sample_rate: of the waveform, in Hz.
        crf: H.264 quality, lower is better.

    Raises:
        ValueError: for frames of another shape or dtype, or odd sizes.
    """
    import av

    if (
        frames.ndim != 4
        or frames.shape[-1] != 3
        or frames.dtype != np.uint8
        or frames.shape[1] % 2
        or frames.shape[2] % 2
    ):
        raise ValueError(f"frames: expected (T, H, W, 3) uint8 with even H and W, got {frames.shape} {frames.dtype}")
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        with av.open(str(temporary), "w") as container:
            video = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "g": "12"})
            video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            audio = container.add_stream("aac", rate=sample_rate, layout="mono") if waveform is not None else None
            for picture in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            container.mux(video.encode(None))
            if audio is not None and waveform is not None:
                for packet in _encode_audio(audio, waveform, sample_rate):
                    container.mux(packet)
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _encode_audio(stream: AudioStream, waveform: NDArray[np.float32], sample_rate: int) -> Iterator[Any]:
    import av

    for start in range(0, waveform.size, 1024):
        block = np.ascontiguousarray(waveform[None, start : start + 1024], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        yield stream.encode(frame)
    yield stream.encode(None)
