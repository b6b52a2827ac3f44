"""Audio of any file as a stream of 16 kHz mono, by time stamps, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import SAMPLE_RATE
from unisync_loss.utils.process_pool import sign_of_life
from unisync_loss.video.decoding import audio_stream, check_span, decoded_frames

if TYPE_CHECKING:
    from av.container import InputContainer

_KEPT = 60 * SAMPLE_RATE  # samples held before the newest read: 3.8 MB; readers go back by 20 s and its context
_JITTER = 0.002  # s by which time stamps may differ from the count of samples; beyond, they are used


def stream_audio(container: InputContainer, zero: float) -> Iterator[NDArray[np.float32]]:
    """Decode the audio as 16 kHz mono from a time on, gaps filled with silence.

    Args:
        container: of :func:`open_media`.
        zero: time stamp in seconds of the first sample wanted: that of the first frame.

    Yields:
        Blocks (S,) float32 in [-1, 1]; the first begins exactly at ``zero``.
    """
    written = 0  # samples since zero
    stream = audio_stream(container)
    for start_time, yielded, block in _runs(decoded_frames(container, stream)):
        place = round((start_time - zero) * SAMPLE_RATE) + yielded
        check_span(container, place / SAMPLE_RATE)
        for size in _portions(place - written):
            yield np.zeros(size, np.float32)
            written += size
        block = block[written - place :]
        if block.size:
            sign_of_life()
            yield block
            written += block.size


def _portions(samples: int) -> Iterator[int]:
    """Sizes of blocks of a minute at most that make up a gap."""
    for begin in range(0, samples, 60 * SAMPLE_RATE):
        yield min(60 * SAMPLE_RATE, samples - begin)  # a gap of hours must not be one array


def _runs(frames: Iterable[Any]) -> Iterator[tuple[float, int, NDArray[np.float32]]]:
    """Resampled blocks: start time of their run, number of its samples yielded before, samples.

    A new run begins wherever samples are missing or the format changes.
    """
    import av

    resampler: av.AudioResampler | None = None
    start_time, decoded, yielded, shape = 0.0, 0, 0, None
    for frame in chain(frames, [None]):
        rate = frame.sample_rate if frame is not None else 1
        time = frame.time if frame is not None and frame.time is not None else start_time + decoded / rate
        here = (rate, frame.layout.name, frame.format.name) if frame is not None else None
        if here != shape or abs(time - start_time - decoded / rate) > _JITTER:
            for block in resampler.resample(None) if resampler is not None else ():
                yield start_time, yielded, block.to_ndarray()[0] / np.float32(32768)
                yielded += block.samples
            # 16 bits, because FFmpeg adds channels up to 1.4 times full scale where the result is float
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            start_time, decoded, yielded, shape = time, 0, 0, here
        if frame is not None:
            decoded += frame.samples
            for block in resampler.resample(frame) if resampler is not None else ():
                yield start_time, yielded, block.to_ndarray()[0] / np.float32(32768)
                yielded += block.samples


class AudioReader:
    """Random access to a stream of audio, back to a minute before the newest read.

    Args:
        blocks: of samples, from sample 0 on.
    """

    def __init__(self, blocks: Iterator[NDArray[np.float32]]) -> None:
        self._blocks = blocks
        self._held: deque[NDArray[np.float32]] = deque()
        self._first = self._last = 0  # samples at which the blocks held begin and end

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples from start to stop, fewer where the audio has ended.

        Raises:
            ValueError: when the audio cannot be decoded.
        """
        while self._last < stop and (block := next(self._blocks, None)) is not None:
            self._held.append(block)
            self._last += block.size
            while self._held and self._first + self._held[0].size < start - _KEPT:
                self._first += self._held.popleft().size
        assert start >= self._first or not self._held, "samples that are no longer held"
        held = np.concatenate([np.zeros(0, np.float32), *self._held])
        return held[start - self._first : stop - self._first]
