"""Decode and encode clips with PyAV, by time stamps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from unisync_loss.streams import Sound, audio_stream, open_media, stream_pictures, stream_sound

if TYPE_CHECKING:
    from av import AudioStream


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
    frames: list[NDArray[np.uint8]] = []
    zero = 0.0
    with open_media(path) as container:
        audio_stream(container)
        for picture in stream_pictures(container):
            if max_frames is not None and picture.tick >= max_frames:
                break
            if not frames:
                zero = picture.time
            frames.extend(frames[-1:] * (picture.tick - len(frames)))  # a gap shows what was there before it
            frames.append(picture.frame)
    if not frames:
        raise ValueError(f"{path}: expected a video with at least one frame, got none")
    with open_media(path) as container:
        waveform = Sound(stream_sound(container, zero)).read(0, len(frames) * SAMPLES_PER_FRAME)
    missing = len(frames) * SAMPLES_PER_FRAME - waveform.size
    return Clip(np.stack(frames), np.pad(waveform, (0, missing)))


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
