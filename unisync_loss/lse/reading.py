"""Crops of a video for SyncNet, as a generator that can run in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS
from unisync_loss.lse.crops import CropBox, FaceTrack, crop_boxes, crop_face, find_tracks, keep_tracks, resize_frame
from unisync_loss.utils.prefetch import prefetch
from unisync_loss.video.clip import every_frame, refuse_long_gaps
from unisync_loss.video.decoding import open_media, stream_frames
from unisync_loss.video.face_detection import Frame, shared_finder
from unisync_loss.video.reading import open_source

_SEARCH = 0.2  # share of the time that face detection takes


class Span(NamedTuple):
    """Frames of a track: the first, and their number; None for the whole video."""

    start: int
    frames: int | None


class Step(NamedTuple):
    """Crops of one frame.

    Attributes:
        share: of the work done.
        crops: number of the track and (3, 224, 224) uint8 crop, of every track that shows this frame.
    """

    share: float
    crops: list[tuple[int, NDArray[np.uint8]]]


def read_crops(
    path: str | os.PathLike[str], min_track: int | None, audio: str | os.PathLike[str] | None = None
) -> Generator[Any, None, None]:
    """Find the faces of a video, then crop them.

    Args:
        path: the file.
        min_track: number of frames that a track must exceed; None takes the whole image.
        audio: file whose sound is taken; default the same.

    Yields:
        The file as :class:`.video.reading.Opened`, the tracks as a list of
        :class:`Span`, and a :class:`Step` per frame.

    Raises:
        ValueError: for a file that cannot be decoded, a gap of over ten seconds in its time stamps, or no face track
            that is long enough.
        FileNotFoundError: when there is no such file.
    """
    opened = open_source(path, audio)
    yield opened
    total = max(opened.facts.seconds, 1 / FPS) * FPS
    if min_track is None:
        yield [Span(0, None)]
        with _decoded(path) as frames:
            for index, frame in enumerate(frames, 1):
                yield Step(min(1.0, index / total), [(0, resize_frame(frame).numpy())])
        return
    with _decoded(path) as frames:
        tracks = keep_tracks(find_tracks(frames, shared_finder()), min_track)
    yield [Span(track.start, len(track.boxes)) for track in tracks]
    with _decoded(path) as frames:
        for index, crops in enumerate(_crop(frames, tracks), 1):
            yield Step(_SEARCH + (1 - _SEARCH) * min(1.0, index / total), crops)


@contextmanager
def _decoded(path: str | os.PathLike[str]) -> Iterator[Iterator[Frame]]:
    """Frames of a video at 25 fps, decoded in a thread of their own."""
    with open_media(path) as container:
        timed = refuse_long_gaps(stream_frames(container), path)  # a gap would be thousands of equal frames
        with prefetch(every_frame(timed)) as frames:
            yield frames


def _crop(frames: Iterator[Frame], tracks: Sequence[FaceTrack]) -> Iterator[list[tuple[int, NDArray[np.uint8]]]]:
    """Crops of every frame by number of the track, in order of the tracks' beginnings."""
    waiting = sorted(range(len(tracks)), key=lambda number: tracks[number].start, reverse=True)
    running: list[tuple[int, Iterator[CropBox]]] = []
    for index, frame in enumerate(frames):
        while waiting and tracks[waiting[-1]].start == index:
            number = waiting.pop()
            running.append((number, crop_boxes(tracks[number])))
        yield [(number, crop_face(frame, next(boxes)).numpy()) for number, boxes in running]
        running = [run for run in running if tracks[run[0]].start + len(tracks[run[0]].boxes) > index + 1]
