"""Long videos in constant memory: frame by frame at 25 fps, and their sound, on one zero of time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE
from unisync_loss.streams import upright

if TYPE_CHECKING:
    from av.container import InputContainer


def stream_frames(path: str | os.PathLike[str], *, longest: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Decode a video to the pictures on show at ``t / 25`` s after the first, one at a time.

    The frames of :func:`unisync_loss.media.read_clip`, without holding them.

    Args:
        path: any file that FFmpeg reads, with pictures in order of time.
        longest: shrink pictures whose longer side has more pixels than this.

    Yields:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: when the file cannot be decoded, or lacks a video stream.
        FileNotFoundError: when there is no such file.
    """
    shown: NDArray[np.uint8] | None = None
    start = last = 0.0
    periods: list[float] = []
    count = 0
    with _opened(path, "video") as container:
        container.streams.video[0].thread_type = "AUTO"
        for index, frame in enumerate(container.decode(video=0)):
            time = frame.time if frame.time is not None else index / FPS
            if shown is None:
                start = time
            else:
                periods.append(time - last)
                # half a millisecond absorbs rounded stamps
                while start + count / FPS + 5e-4 < time:
                    yield shown
                    count += 1
            share = min(1.0, longest / max(frame.width, frame.height)) if longest else 1.0
            sized = frame.reformat(round(frame.width * share), round(frame.height * share), "rgb24")
            shown = upright(np.asarray(sized.to_ndarray(), np.uint8), frame.rotation)
            last = time
        if shown is None:
            raise ValueError(f"{path}: expected a video with at least one frame, got none")
        period = float(np.median(periods)) if periods else 1 / FPS
        for _ in range(count, max(1, round((last - start + period) * FPS))):
            yield shown


def read_samples(path: str | os.PathLike[str]) -> NDArray[np.int16]:
    """Decode the sound of a video as FFmpeg's ``-ac 1 -ar 16000 -acodec pcm_s16le`` does, from its first picture on.

    Args:
        path: any file that FFmpeg reads.

    Returns:
        (S,) int16 mono at 16 kHz, 32 kB a second.

    Raises:
        ValueError: when the file cannot be decoded, or lacks a video or an audio stream.
        FileNotFoundError: when there is no such file.
    """
    import av

    with _opened(path, "video") as container:
        first = next(container.decode(video=0), None)
        start = first.time or 0.0 if first is not None else 0.0
    sound = bytearray()
    with _opened(path, "audio") as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        skip: int | None = None  # samples before the first picture
        for frame in container.decode(audio=0):
            if skip is None:
                skip = round((start - (frame.time or 0.0)) * SAMPLE_RATE)
                sound += bytes(2 * max(0, -skip))
            for piece in resampler.resample(frame):
                sound += piece.to_ndarray()[0].tobytes()
        if skip is None:
            raise ValueError(f"{path}: expected an audio stream with samples, got none")
        for piece in resampler.resample(None):
            sound += piece.to_ndarray()[0].tobytes()
    return np.frombuffer(sound, np.int16)[max(0, skip) :]


def count_frames(path: str | os.PathLike[str]) -> int:
    """Frames that :func:`stream_frames` gives if the file's own duration is right; 0 where it has none."""
    with _opened(path, "video") as container:
        return round((container.duration or 0) / 1e6 * FPS)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], kind: str) -> Iterator[InputContainer]:
    import av  # loaded here: `import unisync_loss` must not need PyAV

    if not Path(path).is_file():
        raise FileNotFoundError(f"no such video file: {path}")
    try:
        with av.open(str(path)) as container:
            if not getattr(container.streams, kind):
                raise ValueError(f"{path}: expected a video with sound, got no {kind} stream")
            yield container
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be decoded ({error})") from error
