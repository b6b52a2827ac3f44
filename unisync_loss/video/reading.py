"""Reading of files that may be damaged or hostile, as functions that can run in a process of their own.

Each takes a file and gives plain arrays, so that :func:`unisync_loss.utils.process_pool.iterate_isolated` can run it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from itertools import chain, groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import SAMPLE_RATE
from unisync_loss.utils.prefetch import prefetch
from unisync_loss.utils.process_pool import iterate_isolated
from unisync_loss.video.audio_decoding import choose_audio, stream_audio
from unisync_loss.video.clip import Clip, every_frame, start_of
from unisync_loss.video.decoding import Facts, TimedFrame, open_media, read_facts, stream_frames
from unisync_loss.video.face_detection import FaceFinder, shared_finder
from unisync_loss.video.face_tracking import TrackEnd, TrackPiece, track_faces

SHORT_SIDE = 1080  # pixels; larger frames are shrunk: experts work on mouths of about 100 pixels
SILENT_END = 0.5  # s by which the sound may end before the video without a remark
_PART = 2**23  # bytes of frames that are sent at a time

Path: TypeAlias = str | os.PathLike[str]


class Opened(NamedTuple):
    """Facts of a file, and remarks on the choice of its sound."""

    facts: Facts
    notes: tuple[str, ...]


class FaceEvent(NamedTuple):
    """What was found in a video next.

    Attributes:
        frames: ticks decoded so far.
        event: the file first; None at the end.
    """

    frames: int
    event: Opened | TrackPiece | TrackEnd | None


def read_faces(
    path: Path, finder: FaceFinder | None = None, audio: Path | None = None
) -> Generator[FaceEvent, None, None]:
    """Decode a video and track its faces, each in a thread of its own.

    Args:
        path: any file that FFmpeg reads.
        finder: face detector; default MediaPipe.
        audio: file whose sound is taken; default the same.

    Yields:
        The file, pieces and ends of tracks, and the end.

    Raises:
        ValueError: for a file that cannot be decoded or lacks video or audio.
        FileNotFoundError: when there is no such file.
        ImportError: without PyAV or MediaPipe.
    """
    frames = 0

    def counted(pictures: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        nonlocal frames
        for picture in pictures:
            frames = picture.tick + 1
            yield picture

    yield FaceEvent(0, open_source(path, audio))
    with open_media(path) as container:
        pictures = counted(stream_frames(container, short_side=SHORT_SIDE))
        with prefetch(pictures) as decoded, prefetch(_track(decoded, finder or shared_finder())) as events:
            for event in events:
                yield FaceEvent(frames, event)
    yield FaceEvent(frames, None)


def open_source(path: Path, audio: Path | None) -> Opened:
    """Facts of a video, and what was chosen of its sound, or of the sound of another file."""
    facts = read_facts(path, audio=audio is None)
    with open_media(path if audio is None else audio) as container:
        return Opened(facts, choose_audio(container).notes)


def _track(pictures: Iterator[TimedFrame], finder: FaceFinder) -> Iterator[TrackPiece | TrackEnd]:
    """Tracks of a whole video; a gap in the time stamps ends all tracks."""
    used = 0
    # frame number and tick differ by a constant until frames are missing
    for _, run in groupby(enumerate(pictures), key=lambda numbered: numbered[1].tick - numbered[0]):
        consecutive = (picture for _, picture in run)
        first = next(consecutive)
        frames = (picture.frame for picture in chain([first], consecutive))
        last = -1
        for event in track_faces(frames, finder):
            last = max(last, event.track)
            yield event._replace(track=used + event.track, start=first.tick + event.start)
        used += last + 1


def check_audio(audio: Path | None, videos: int) -> None:
    """Refuse sound of another file that is not there, or for several videos, before any work.

    Raises:
        ValueError: for several videos.
        FileNotFoundError: when there is no such file.
    """
    if audio is not None and videos != 1:
        raise ValueError(f"audio: expected one video, got {videos}")
    if audio is not None and not os.path.isfile(audio):
        raise FileNotFoundError(f"no such audio file: {audio}")


def read_frames(path: Path, short_side: int | None = None) -> Generator[NDArray[np.uint8], None, None]:
    """Frames (H, W, 3) of a video at 25 fps; gaps repeat the frame before them."""
    with open_media(path) as container:
        yield from every_frame(stream_frames(container, short_side=short_side))


def read_sound(path: Path, zero: float | None = None) -> Generator[NDArray[np.float32], None, None]:
    """Audio of a file in blocks of about a second, from a time on, or from its beginning: of a video, the first frame.

    See :func:`unisync_loss.video.audio_decoding.stream_audio`.
    """
    if zero is None:
        zero = start_of(path)
    with open_media(path) as container:
        blocks: list[NDArray[np.float32]] = []
        for block in stream_audio(container, zero):
            blocks.append(block)
            if sum(each.size for each in blocks) >= SAMPLE_RATE:
                yield np.concatenate(blocks)
                blocks = []
        if blocks:
            yield np.concatenate(blocks)


def read_clip_isolated(read: Callable[[Any], Clip], source: object) -> Clip:
    """Read a clip in another process.

    Args:
        read: a top-level function that reads it.
        source: its argument.

    Raises:
        ValueError: what ``read`` raised, and when the process died.
        OSError: what ``read`` raised.
    """
    parts = iterate_isolated(_in_parts, read, source)
    waveform, shape = next(parts), next(parts)
    frames, row = np.empty(shape, np.uint8), 0
    for part in parts:
        frames[row : row + len(part)] = part
        row += len(part)
    return Clip(frames, waveform)


def _in_parts(read: Callable[[Any], Clip], source: object) -> Generator[Any, None, None]:
    """Waveform, shape of the frames, and the frames in parts, so that a message is no copy of the whole clip."""
    clip = read(source)
    yield clip.waveform
    yield clip.frames.shape
    rows = max(1, _PART // max(1, clip.frames[:1].nbytes))
    for first in range(0, len(clip.frames), rows):
        yield clip.frames[first : first + rows]
