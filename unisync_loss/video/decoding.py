"""Frames of any video file as a stream at 25 fps, by time stamps, in constant memory."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain, dropwhile
from math import ceil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS
from unisync_loss.utils.files import recognise_file
from unisync_loss.utils.process_pool import sign_of_life

if TYPE_CHECKING:
    from av import AudioStream, VideoStream
    from av.container import InputContainer

_ROUNDING = 5e-4  # s; containers round time stamps to a millisecond
_LONGEST_FRAME = 1.0  # s that a frame is shown at most; the rest of a longer gap has no frames
#: containers that FFmpeg may read, with pictures: not playlists, which lead to other files or hosts
_FORMATS = "image2,jpeg_pipe,png_pipe,mov,matroska,avi,mpegts,mpeg,flv,asf,mxf,ogg,nut,gif,wav,aiff,flac,mp3,aac,caf"
_LONGEST, _FEWEST_BYTES = 4 * 3600.0, 125  # s that any file may last, and bytes of each second beyond: 1 kbit/s
RESTART = 1.0  # s by which time stamps go back, for longer than that, where a recording begins again; else it is damage
_NO_SEEK = ("avi", "mpeg")  # containers whose times are guesses after a seek: read from the beginning
_MOST_PIXELS = 2**27  # of a frame, 16K: decoding and conversion to RGB take five bytes per pixel


class TimedFrame(NamedTuple):
    """Frame shown at one instant.

    Attributes:
        tick: the instant, in 1/25 s after the first frame; ticks increase, with gaps where the file has no frames.
        number: of the frame in the file, from 0 in order of time.
        time: time stamp of the frame in seconds.
        frame: (H, W, 3) uint8 RGB, upright.
    """

    tick: int
    number: int
    time: float
    frame: NDArray[np.uint8]


class Facts(NamedTuple):
    """Properties of a file; ``zero`` is the time stamp of its first frame in seconds."""

    width: int
    height: int
    fps: float
    seconds: float
    video_codec: str
    audio_codec: str
    sample_rate: int
    channels: int
    zero: float


@contextmanager
def open_media(source: str | os.PathLike[str] | BinaryIO) -> Iterator[InputContainer]:
    """Open a file that FFmpeg reads, not playlists and what else refers to other files or hosts.

    Raises:
        ValueError: when it cannot be opened or decoded, also for errors inside the ``with`` block.
        FileNotFoundError: when there is no such file.
        PermissionError: when it may not be read.
    """
    import av  # heavy, and not needed by `import unisync_loss`

    if isinstance(source, (str, os.PathLike)):
        path = Path(source).absolute()  # a relative name like "a:b.mp4" would be read as a protocol
        if not path.is_file():
            raise FileNotFoundError(f"no such video file: {source}")
        name = str(source)
        file: str | BinaryIO = str(path)
    else:
        name, file = "video", source
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
        # titles may be in any encoding; nobody reads them here
        with av.open(file, options=options, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            raise PermissionError(f"{name}: not readable") from error
        found = recognise_file(file) if isinstance(file, str) else None
        raise ValueError(f"{name}: cannot be decoded ({found or getattr(error, 'strerror', error)})") from error


def video_stream(container: InputContainer) -> VideoStream:
    """Video stream that FFmpeg would play, not cover art.

    Raises:
        ValueError: when there is none, or one of an unknown codec or too large.
    """
    stream = cast("VideoStream", _best(container, "video"))
    if (pixels := stream.width * stream.height) > _MOST_PIXELS:
        raise ValueError(f"{container.name}: expected frames of at most {_MOST_PIXELS} pixels, got {pixels}")
    return stream


def audio_stream(container: InputContainer) -> AudioStream:
    """Audio stream that FFmpeg would play, not a commentary.

    Raises:
        ValueError: when there is none, or one of an unknown codec.
    """
    return cast("AudioStream", _best(container, "audio"))


def _best(container: InputContainer, kind: Literal["video", "audio"]) -> Any:  # noqa: ANN401 - PyAV has no types
    stream = container.streams.best(kind)
    if stream is None:
        raise ValueError(f"{container.name}: expected a video with audio, got no {kind} stream")
    if stream.codec_context is None:
        raise ValueError(f"{container.name}: cannot be decoded (unknown {kind} codec)")
    return stream


def check_span(container: InputContainer, seconds: float) -> None:
    """Refuse time stamps that no file of this size needs: filling the gaps between them would take for ever.

    Raises:
        ValueError: beyond four hours, and a second for every 125 bytes of the file.
    """
    most = _LONGEST + max(0, container.size) / _FEWEST_BYTES
    if seconds > most:
        raise ValueError(
            f"{container.name}: expected time stamps of at most {most:.0f} s in a file of {container.size} bytes, "
            f"got {seconds:.0f} s"
        )


def restarted(container: InputContainer, last: float, time: float) -> ValueError:
    """The error for a file whose time stamps begin again, as those of recordings joined byte by byte do."""
    return ValueError(
        f"{container.name}: expected time stamps that increase, got {time:.1f} s after {last:.1f} s, as in recordings "
        "joined byte by byte: give them one by one, or join them with `ffmpeg -f concat`"
    )


def read_facts(path: str | os.PathLike[str], *, audio: bool = True) -> Facts:
    """Read the properties of a file, decoding one frame.

    Args:
        path: the file.
        audio: whether it must have audio.

    Raises:
        ValueError: when it cannot be decoded, or lacks video or audio.
        FileNotFoundError: when there is no such file.
    """
    with open_media(path) as container:
        video, track = video_stream(container), audio_stream(container) if audio else None
        first = next((frame for _, frame in _in_order(container, video)), None)
        if first is None:
            raise ValueError(f"{path}: expected a video with at least one frame, got none")
        return Facts(
            first.width,
            first.height,
            float(video.average_rate or video.guessed_rate or 0),
            float(container.duration or 0) / 1e6,
            video.codec_context.name,
            track.codec_context.name if track else "",
            track.rate or 0 if track else 0,
            track.channels if track else 0,
            first.time or 0.0,
        )


def stream_frames(
    container: InputContainer,
    start: int = 0,
    *,
    zero: float | None = None,
    threads: bool = True,
    short_side: int | None = None,
) -> Iterator[TimedFrame]:
    """Resample a video to 25 fps from its first frame on: at each tick the last frame whose time has come.

    Frames that are late (time stamps that go back) or damaged are skipped; gaps of over a second have no ticks.

    Args:
        container: of :func:`open_media`.
        start: first tick wanted; decoding starts at the key frame before it, and frames are numbered from there.
        zero: time stamp of the first frame, where it is known; else it is decoded.
        threads: decode on several cores.
        short_side: shrink frames whose height and width are both larger.

    Yields:
        The frames.
    """
    stream = video_stream(container)
    if threads:
        stream.thread_type = "AUTO"
    frames = _in_order(container, stream)
    seek = start > 0 and container.format.name not in _NO_SEEK
    first: tuple[float, Any] | None = (zero, None) if seek and zero is not None else next(frames, None)
    if first is None:
        return
    before, zero = first, first[0]
    if seek:
        frames = _enter(container, stream, zero + start / FPS)
        before = next(frames)
    tick, index = start, 0
    periods = array("d")
    for time, frame in frames:
        check_span(container, time - zero)
        length = time - before[0]
        if len(periods) < 1000:  # 40 s: enough for the median, constant memory
            periods.append(length)
        tick = yield from _show(before, index, tick, zero, before[0] + min(length, _LONGEST_FRAME), short_side)
        tick = max(tick, ceil((time - zero - _ROUNDING) * FPS))
        before, index = (time, frame), index + 1
    period = median(periods) if periods else 1 / FPS  # files do not say how long the last frame is shown
    total = max(1, round((before[0] - zero + min(period, _LONGEST_FRAME)) * FPS))
    yield from _show(before, index, tick, zero, zero + (total - 0.5) / FPS, short_side)


def _in_order(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, Any]]:
    last, late = float("-inf"), 0
    for index, frame in enumerate(decoded_frames(container, stream)):
        time = frame.time if frame.time is not None else index / float(stream.average_rate or FPS)
        late = late + 1 if time < last - RESTART else 0
        if late > FPS:
            raise restarted(container, last, time)
        if time > last and not frame.is_corrupt:
            yield time, frame
            last = time


def decoded_frames(container: InputContainer, stream: VideoStream | AudioStream) -> Iterator[Any]:
    """Decode from the current position; packets that lack their beginning, as after a seek, are skipped."""
    import av

    started = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if started:
                raise
            continue
        started = started or bool(frames)
        yield from frames


def _enter(container: InputContainer, stream: VideoStream, target: float) -> Iterator[tuple[float, Any]]:
    """Frames from a key frame at or before the target; in some files a seek ends a little after it."""
    # an index may be late by a group of pictures, seconds long; the beginning always works
    for time in (target, target - 1, target - 5, 0.0):
        if time > 0:
            container.seek(int(time / stream.time_base), stream=stream)
        else:
            container.seek(container.start_time or 0)
        frames = _in_order(container, stream)
        if time > 0:  # frames before the key frame depend on frames that were skipped
            frames = dropwhile(lambda stamped: not stamped[1].key_frame, frames)
        first = next(frames, None)
        if first is not None and first[0] <= target + _ROUNDING:
            break
    else:
        raise ValueError(f"{container.name}: expected a key frame before {target:.2f} s, cannot be decoded from there")
    assert first is not None
    return chain([first], frames)


def _show(
    stamped: tuple[float, Any], index: int, tick: int, zero: float, until: float, short_side: int | None
) -> Generator[TimedFrame, None, int]:
    """Yield a frame at all ticks before a time; returns the next tick. A frame shown at no tick is not converted."""
    time, frame = stamped
    shown = None
    while tick / FPS + _ROUNDING < until - zero:
        if shown is None:
            shrink = min(1.0, (short_side or frame.height) / min(frame.height, frame.width))
            size = {"width": round(frame.width * shrink), "height": round(frame.height * shrink)} if shrink < 1 else {}
            shown = upright(np.asarray(frame.to_ndarray(format="rgb24", **size), np.uint8), frame.rotation)
        sign_of_life()
        yield TimedFrame(tick, index, time, shown)
        tick += 1
    return tick


def upright(frame: NDArray[np.uint8], rotation: int) -> NDArray[np.uint8]:
    """Rotate a frame (H, W, 3) by its rotation tag in degrees."""
    return np.ascontiguousarray(np.rot90(frame, round(rotation / 90))) if rotation else frame
