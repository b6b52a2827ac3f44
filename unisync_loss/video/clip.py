"""Video files as clips of 25 fps and 16 kHz, by time stamps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import SAMPLES_PER_FRAME
from unisync_loss.video.decoding import AudioReader, TimedFrame, open_media, read_facts, stream_audio, stream_frames

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg")


def find_videos(path: Path) -> list[Path]:
    """A file, or all video files below a folder, in order of name.

    Raises:
        FileNotFoundError: when there is no such path.
        ValueError: when a folder holds no video.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such video file or folder: {path}")
    if not path.is_dir():
        return [path]
    videos = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not videos:
        raise ValueError(f"{path}: expected videos ({', '.join(SUFFIXES)}), found none")
    return videos


class Clip(NamedTuple):
    """A decoded clip.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB at 25 fps.
        waveform: (640 * T,) float32 mono at 16 kHz in [-1, 1], cut or padded with zeros to the frames.
    """

    frames: NDArray[np.uint8]
    waveform: NDArray[np.float32]


def read_clip(path: str | os.PathLike[str], *, max_frames: int | None = None, short_side: int | None = None) -> Clip:
    """Decode a video file to 25 fps frames and a 16 kHz waveform with a common start.

    Frame t is the one shown at ``t / 25`` s after the first frame, for any frame rate of the file; the start times of
    both streams are applied.

    Args:
        path: any file that FFmpeg reads.
        max_frames: number of frames to read; None reads all.
        short_side: shrink frames whose height and width are both larger.

    Returns:
        The clip.

    Raises:
        ValueError: when the file cannot be decoded, or lacks a video or an audio stream.
        FileNotFoundError: when there is no such file.
    """
    facts = read_facts(path)
    with open_media(path) as container:
        frames = list(islice(every_frame(stream_frames(container, short_side=short_side)), max_frames))
    with open_media(path) as container:
        waveform = AudioReader(stream_audio(container, facts.zero)).read(0, len(frames) * SAMPLES_PER_FRAME)
    missing = len(frames) * SAMPLES_PER_FRAME - waveform.size
    return Clip(np.stack(frames), np.pad(waveform, (0, missing)))


def every_frame(timed: Iterator[TimedFrame]) -> Iterator[NDArray[np.uint8]]:
    """Yield one frame per tick from 0 on; gaps repeat the frame before them.

    Args:
        timed: of :func:`unisync_loss.video.decoding.stream_frames`.

    Yields:
        (H, W, 3) uint8 RGB.
    """
    last: NDArray[np.uint8] | None = None
    tick = 0
    for current in timed:
        for _ in range(tick, current.tick):
            yield current.frame if last is None else last
        yield current.frame
        tick, last = current.tick + 1, current.frame
