"""Encoding of frames and audio: MP4 files, MP4 and WAV bytes."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE
from unisync_loss.utils.files import atomic_path

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import OutputContainer


def write_clip(
    path: str | os.PathLike[str],
    frames: NDArray[np.uint8],
    waveform: NDArray[np.float32] | None = None,
    *,
    fps: int = FPS,
    sample_rate: int = SAMPLE_RATE,
    crf: int = 23,
) -> None:
    """Write an MP4 file (H.264, AAC) atomically.

    Args:
        path: the file; its folder must exist.
        frames: (T, H, W, 3) uint8 RGB; H and W even.
        waveform: (S,) float32 mono in [-1, 1]; None writes no audio.
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
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        _mux(container, frames, waveform, fps, sample_rate, {"crf": str(crf), "g": "12"})


def encode_frames(frames: NDArray[np.uint8], *, crf: int = 20) -> bytes:
    """Encode an MP4 without audio for cheap random access.

    A key frame every 12 and no frame that depends on a later one; the same frames give the same bytes.

    Args:
        frames: (T, H, W, 3) uint8 RGB at 25 fps; H and W even.
        crf: H.264 quality, lower is better.

    Returns:
        The file.
    """
    import av

    # fixed distance of key frames, no bidirectional frames, one thread: random access, and the same bytes everywhere
    options = {"crf": str(crf), "g": "12", "keyint_min": "12", "sc_threshold": "0", "bf": "0", "threads": "1"}
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        _mux(container, frames, None, FPS, SAMPLE_RATE, options)
    return file.getvalue()


def encode_wav(waveform: NDArray[np.float32]) -> bytes:
    """Encode (S,) float32 in [-1, 1] as a 16-bit PCM WAV at 16 kHz: 44 bytes, then the samples."""
    file = BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        writer.writeframes(to_int16(waveform).astype("<i2").tobytes())
    return file.getvalue()


def to_int16(waveform: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert samples (S,) float32 in [-1, 1] to 16-bit integers."""
    # the inverse of every reader's division by 32768; 1.0 itself is clipped
    samples: NDArray[np.int16] = np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.int16)
    return samples


def _mux(
    container: OutputContainer,
    frames: NDArray[np.uint8],
    waveform: NDArray[np.float32] | None,
    fps: int,
    sample_rate: int,
    options: dict[str, str],
) -> None:
    import av

    video = container.add_stream("libx264", rate=fps, options=options)
    video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
    audio = container.add_stream("aac", rate=sample_rate, layout="mono") if waveform is not None else None
    for frame in frames:
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
    container.mux(video.encode(None))
    if audio is not None and waveform is not None:
        for packet in _encode_audio(audio, waveform, sample_rate):
            container.mux(packet)


def _encode_audio(stream: AudioStream, waveform: NDArray[np.float32], sample_rate: int) -> Iterator[Any]:
    import av

    for start in range(0, waveform.size, 1024):  # samples of an AAC frame
        block = np.ascontiguousarray(waveform[None, start : start + 1024], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
        yield stream.encode(frame)
    yield stream.encode(None)
