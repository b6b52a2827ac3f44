"""Video files as clips of 25 fps and 16 kHz, and the audio of any file, by time stamps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.video.audio_decoding import AudioReader, stream_audio
from unisync_loss.video.decoding import TimedFrame, open_media, read_facts, stream_frames

SUFFIXES = (
    ".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".3gp"
)  # fmt: skip
_LONGEST_GAP = 10  # s
_MOST_BYTES = 3 * 2**30  # of the frames of a clip in memory: 29,000 of a face crop, 500 of 1080p
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")


def find_videos(path: Path) -> list[Path]:
    """A file, or all video files below a folder, in order of name.

    Raises:
        FileNotFoundError: when there is no such path.
        ValueError: when a folder holds no video.
    """
    return find_files(path, SUFFIXES, "video")


def find_files(path: Path, suffixes: tuple[str, ...], kind: str) -> list[Path]:
    """A file of any suffix, or all files below a folder with one of the suffixes, in order of name.

    Args:
        path: the file or folder.
        suffixes: in lower case, with the dot.
        kind: of file, for messages.

    Raises:
        FileNotFoundError: when there is no such path.
        ValueError: when a folder holds no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such {kind} file or folder: {path}")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not files:
        raise ValueError(f"{path}: expected {kind} files ({', '.join(suffixes)}), found none")
    return files


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
        ValueError: when the file cannot be decoded, lacks a video or an audio stream, has a gap of over ten seconds in
            its time stamps, or frames of more than 3 GiB.
        FileNotFoundError: when there is no such file.
    """
    facts = read_facts(path)
    with open_media(path) as container:
        timed = refuse_long_gaps(stream_frames(container, short_side=short_side), path)
        frames = list(_refuse_large(islice(every_frame(timed), max_frames), path))
    with open_media(path) as container:
        waveform = AudioReader(stream_audio(container, facts.zero)).read(0, len(frames) * SAMPLES_PER_FRAME)
    missing = len(frames) * SAMPLES_PER_FRAME - waveform.size
    return Clip(np.stack(frames), np.pad(waveform, (0, missing)))


def _refuse_large(frames: Iterator[NDArray[np.uint8]], path: str | os.PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    size = 0
    for frame in frames:
        size += frame.nbytes
        if size > _MOST_BYTES:
            raise ValueError(
                f"{path}: expected a clip whose frames take at most {_MOST_BYTES / 2**30:g} GiB, got more; "
                "`unisync prepare` cuts videos into clips"
            )
        yield frame


def refuse_long_gaps(timed: Iterator[TimedFrame], path: str | os.PathLike[str]) -> Iterator[TimedFrame]:
    """Stop before a gap is filled: one of an hour would be 90,000 copies of a frame.

    Raises:
        ValueError: at a gap of over ten seconds.
    """
    last = -1
    for frame in timed:
        if frame.tick - last > _LONGEST_GAP * FPS:
            missing = (frame.tick - last - 1) / FPS
            raise ValueError(
                f"{path}: expected a clip without gaps of over {_LONGEST_GAP} s, got one of {missing:.0f} s"
            )
        yield frame
        last = frame.tick


def read_audio(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Decode the whole audio of a file.

    Args:
        path: any audio or video file that FFmpeg reads.

    Returns:
        (S,) float32 mono at 16 kHz in [-1, 1]; of a video, from its first frame on.

    Raises:
        ValueError: when the file cannot be decoded, or has no audio.
        FileNotFoundError: when there is no such file.
    """
    zero = start_of(path)
    with open_media(path) as container:
        return np.concatenate([np.zeros(0, np.float32), *stream_audio(container, zero)])


def start_of(path: str | os.PathLike[str]) -> float:
    """Time stamp in seconds at which a file begins: of a video its first frame.

    Raises:
        ValueError: when the file cannot be decoded, or is a video without audio.
        FileNotFoundError: when there is no such file.
    """
    # not by its streams: the cover of an audio file is a video stream, too
    if Path(path).suffix.lower() not in AUDIO_SUFFIXES:
        return read_facts(path).zero
    with open_media(path) as container:
        return float(container.start_time or 0) / 1e6


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
