"""Audio of any file as a stream of 16 kHz mono, by time stamps, in constant memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import SAMPLE_RATE, SAMPLES_PER_FRAME
from unisync_loss.utils.process_pool import sign_of_life
from unisync_loss.video.decoding import RESTART, audio_stream, check_span, decoded_frames, open_media, restarted
from unisync_loss.video.voicing import NOISE_FLOOR

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer

_KEPT = 60 * SAMPLE_RATE  # samples held before the newest read: 3.8 MB; readers go back by 20 s and its context
_JITTER = 0.002  # s by which time stamps may differ from the count of samples; beyond, they are used
_PROBED = 60 * SAMPLE_RATE  # samples of a track that are looked at
_ENOUGH = 250  # frames above the noise floor, 10 s, after which no more is looked at
_OPPOSITE = -0.5  # correlation of the channels below which their mean is mostly silence; of stereo it is above 0


def stream_audio(container: InputContainer, zero: float) -> Iterator[NDArray[np.float32]]:
    """Decode the audio as 16 kHz mono from a time on, gaps filled with silence.

    Args:
        container: of :func:`open_media`.
        zero: time stamp in seconds of the first sample wanted: that of the first frame.

    Yields:
        Blocks (S,) float32 in [-1, 1]; the first begins exactly at ``zero``.
    """
    written = 0  # samples since zero
    latest, late = float("-inf"), 0  # end of what was decoded, and samples that came too late in a row
    choice = choose_audio(container)
    stream = cast("AudioStream", container.streams[choice.stream])
    for start_time, yielded, block in _runs(decoded_frames(container, stream), choice.channel):
        place = round((start_time - zero) * SAMPLE_RATE) + yielded
        check_span(container, place / SAMPLE_RATE)
        late = late + block.size if place < latest - RESTART * SAMPLE_RATE else 0
        if late > RESTART * SAMPLE_RATE:
            raise restarted(container, zero + latest / SAMPLE_RATE, start_time)
        latest = max(latest, place + block.size)
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


def _runs(frames: Iterable[Any], channel: int | None) -> Iterator[tuple[float, int, NDArray[np.float32]]]:
    """Resampled blocks: start time of their run, number of its samples yielded before, samples.

    A new run begins wherever samples are missing or the format changes.
    """
    import av

    # 16 bits, because FFmpeg adds channels up to 1.4 times full scale where the result is float
    form, layout, row = ("s16", "mono", 0) if channel is None else ("s16p", "stereo", channel)
    resampler: av.AudioResampler | None = None
    start_time, decoded, yielded, shape = 0.0, 0, 0, None
    for frame in chain(frames, [None]):
        rate = frame.sample_rate if frame is not None else 1
        time = frame.time if frame is not None and frame.time is not None else start_time + decoded / rate
        here = (rate, frame.layout.name, frame.format.name) if frame is not None else None
        if here != shape or abs(time - start_time - decoded / rate) > _JITTER:
            for block in resampler.resample(None) if resampler is not None else ():
                yield start_time, yielded, block.to_ndarray()[row] / np.float32(32768)
                yielded += block.samples
            resampler = av.AudioResampler(format=form, layout=layout, rate=SAMPLE_RATE)
            start_time, decoded, yielded, shape = time, 0, 0, here
        if frame is not None:
            decoded += frame.samples
            for block in resampler.resample(frame) if resampler is not None else ():
                yield start_time, yielded, block.to_ndarray()[row] / np.float32(32768)
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

    def end(self, stop: int) -> int:
        """The sample at which the audio ends, at most ``stop``."""
        self.read(stop, stop)
        return min(self._last, stop)

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


class AudioChoice(NamedTuple):
    """Sound to be taken.

    Attributes:
        stream: its index in the file.
        channel: of a stereo stream; None for the mean of all.
        notes: remarks for the user, where there was something to choose.
    """

    stream: int
    channel: int | None
    notes: tuple[str, ...]


class _Sound(NamedTuple):
    loud: bool
    channel: int | None


def choose_audio(container: InputContainer) -> AudioChoice:
    """Choose the sound of a file by its first minute.

    Of several tracks, the one that FFmpeg would play (flagged as the default, not for the impaired, most channels), or,
    where that one is silent, the first that is not. Of stereo whose channels are in opposite phase, as a balanced
    microphone gives where it is recorded as two channels, the louder channel, because the mean of both would be silent.

    Args:
        container: of :func:`.decoding.open_media`; it is not read from.

    Raises:
        ValueError: when there is no audio stream, or one of an unknown codec.
    """
    best = audio_stream(container)
    path = container.name
    if not os.path.isfile(path) or (len(container.streams.audio) == 1 and best.channels != 2):
        return AudioChoice(best.index, None, ())
    status = os.stat(path)
    return _choose(path, best.index, status.st_size, status.st_mtime_ns)


@lru_cache(64)
def _choose(path: str, best: int, _size: int, _written: int) -> AudioChoice:
    with open_media(path) as container:
        known = [stream for stream in container.streams.audio if stream.codec_context is not None]
        tracks = [(stream.index, _describe(stream)) for stream in known]  # a stream ends with its container
    order = sorted(range(len(tracks)), key=lambda number: tracks[number][0] != best)
    found = {number: _probe(path, tracks[number][0]) for number in order[:1]}
    for number in order[1:]:
        if any(sound.loud for sound in found.values()):
            break
        found[number] = _probe(path, tracks[number][0])
    taken = next((number for number, sound in found.items() if sound.loud), order[0])
    notes = []
    if len(tracks) > 1:
        why = "" if taken == order[0] else f", because track {order[0] + 1} is silent"
        notes.append(f"{len(tracks)} audio tracks: took track {taken + 1}{tracks[taken][1]}{why}")
    channel = found[taken].channel
    if channel is not None:
        notes.append(f"stereo in opposite phase: took the {('left', 'right')[channel]} channel")
    return AudioChoice(tracks[taken][0], channel, tuple(notes))


def _describe(stream: AudioStream) -> str:
    parts = [stream.metadata.get("title"), stream.language if stream.language != "und" else None]
    return f" ({', '.join(part for part in parts if part)})" if any(parts) else ""


def _probe(path: str, index: int) -> _Sound:
    """Whether a track is loud anywhere in its first minute, and the channel to take of one in opposite phase."""
    import av

    resampler = av.AudioResampler(format="s16p", layout="stereo", rate=SAMPLE_RATE)
    probed, loud = 0, 0
    products = np.zeros((2, 2))
    try:
        with open_media(path) as container:
            stream = container.streams[index]
            for frame in decoded_frames(container, stream):
                for block in resampler.resample(frame):
                    samples = block.to_ndarray().astype(np.float32) / 32768
                    probed += samples.shape[1]
                    level = max(float(np.sqrt((channel**2).mean())) for channel in samples) if samples.size else 0.0
                    if level > NOISE_FLOOR:
                        loud += samples.shape[1]
                        products += (samples @ samples.T).astype(np.float64)
                if probed >= _PROBED or loud >= _ENOUGH * SAMPLES_PER_FRAME:
                    break
            stereo = stream.codec_context.channels == 2
    except ValueError:  # it is damaged: judged by what comes before
        stereo = True
    left, right = products[0, 0], products[1, 1]
    opposite = stereo and products[0, 1] < _OPPOSITE * np.sqrt(left * right) < 0
    return _Sound(loud > 0, int(right > left) if opposite else None)
