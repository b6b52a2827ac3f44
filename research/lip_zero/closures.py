"""Physical reference offset from lip closures: closed lips part and /p/, /b/ or /m/ is released. Pure functions.

The visual event is the moment at which the gap between the lips grows fastest after a closure, to a fraction of a
frame. The audio event is the rise of the level above 500 Hz; below that, voicing continues while the lips of /b/ and
/m/ are closed. The rises around all partings of many clips are averaged: events unrelated to the lips average out,
and the remaining peak is the release. Its interval is a bootstrap over clips.

It is assumed that the lips part fastest at the release (`RELEASE_LAG` = 0). They are near their highest speed when
they meet (Löfqvist & Gracco, "Labial kinematics in stop consonant production", J. Acoust. Soc. Am. 99, 1996), and the
highest speed of parting comes sometimes before the release (Löfqvist, "Control of the oral release in bilabial stop
consonant production", J. Acoust. Soc. Am. 100, 1996); in chained syllables audio stays within 20 ms of lead and 70 ms
of lag (Schwartz & Savariaux, PLoS Comput. Biol. 10(7), 2014). None gives the lag to the millisecond, and cameras
differ in the instant that a frame represents: the reference is physical to about half a frame, 20 ms, whatever its
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE
from unisync_loss.evaluation.bootstrap import bootstrap_ci

RELEASE_LAG = 0.0  # frames from the fastest parting of the lips to the audible release
REACH = 5  # frames on either side of a parting that are searched for its release
FEWEST, CLIPS = 30, 10  # partings and clips with partings that a reliable reference needs, and
WIDEST = 0.5  # its widest interval, frames on either side
_RATE = 1000  # values of the rise per second
_AROUND = REACH * _RATE // FPS
_LIPS = ((82, 13, 312), (87, 14, 317))  # points of the mesh: middle of the upper and of the lower inner lip
_FOREHEAD, _CHIN = 10, 152
_CLOSED = 0.03  # gap over the face's height: at most this when closed; lips that touch measure 0.005 to 0.025
_COME, _CAME = 0.01, 8  # closing movement and its frames; after a pause lips part before there is a sound
_PART, _SOON = 0.02, 4  # opening movement and its frames
_SLICE = 128  # samples per spectrum, 8 ms
_PIECE = 20_000  # spectra at a time, to limit memory
_LOWEST = 500  # Hz
_DEPTH = 30.0  # dB below the loud twentieth: softer parts count as silence
_LEAP = 20  # ms over which the rise is measured
_SMOOTHING = 10  # ms, standard deviation

Array = NDArray[np.float64]


class Zero(NamedTuple):
    """Delay of the audio relative to the lips.

    Attributes:
        offset: frames, positive = audio late; NaN without partings.
        low: lower end of its 95 % interval; NaN for fewer than two clips.
        high: upper end.
        partings: number of lip partings used.
        clips: number of clips with any.
    """

    offset: float
    low: float
    high: float
    partings: int
    clips: int

    @property
    def is_reliable(self) -> bool:
        """Whether there are enough partings and clips, and the interval is within ± :data:`WIDEST`."""
        enough = self.partings >= FEWEST and self.clips >= CLIPS
        return enough and max(self.high - self.offset, self.offset - self.low) <= WIDEST


def lip_gap(mesh: NDArray[np.float32], size: tuple[int, int]) -> Array:
    """Gap between the lips divided by the height of the face.

    Args:
        mesh: (T, 468, 2 or 3) of `unisync_loss.video.face_mesh.face_mesh`, gaps filled.
        size: height and width of the frames in pixels.

    Returns:
        (T,) about 0.01 when closed, 0.1 when open.
    """
    points = mesh[:, :, :2] * np.array([size[1], size[0]], np.float64)
    gap = np.linalg.norm(points[:, _LIPS[0]] - points[:, _LIPS[1]], axis=-1).mean(1)
    height = np.linalg.norm(points[:, _FOREHEAD] - points[:, _CHIN], axis=-1)
    return np.asarray(gap / np.median(height))


def find_partings(gap: Array) -> Array:
    """Moments at which closed lips part fastest: (N,) frames, fractional."""
    speed = np.diff(gap)
    lowest = 1 + np.flatnonzero((gap[1:-1] <= gap[:-2]) & (gap[1:-1] < gap[2:]) & (gap[1:-1] <= _CLOSED))
    found = []
    for frame in lowest.tolist():
        came = gap[max(0, frame - _CAME) : frame].max() - gap[frame]
        part = gap[frame + 1 : frame + 1 + _SOON].max() - gap[frame]
        fastest = frame + int(speed[frame : frame + _SOON].argmax())  # speed[k] is that from frame k to k + 1
        if came < _COME or part < _PART or fastest + 1 >= len(speed):
            continue
        before, here, after = speed[fastest - 1 : fastest + 2]
        bend = before - 2 * here + after
        if here >= max(before, after) and bend < 0:
            found.append(fastest + 0.5 + 0.5 * (before - after) / bend)
    return np.array(found)


def level_rise(waveform: NDArray[np.float32]) -> Array:
    """Rise of the level above 500 Hz within 20 ms, in dB; 0 where it falls.

    Args:
        waveform: (S,) at 16 kHz.

    Returns:
        (S // 16 + 1,) one value per millisecond, the first at time 0.
    """
    padded = np.pad(waveform.astype(np.float64), _SLICE // 2)
    slices = np.lib.stride_tricks.sliding_window_view(padded, _SLICE)[:: SAMPLE_RATE // _RATE]
    lowest = _LOWEST * _SLICE // SAMPLE_RATE
    window = np.hanning(_SLICE)
    pieces = (slices[first : first + _PIECE] for first in range(0, len(slices), _PIECE))
    energy = np.concatenate([(np.abs(np.fft.rfft(piece * window))[:, lowest:] ** 2).sum(1) for piece in pieces])
    level = 10 * np.log10(energy + np.percentile(energy, 95) * 10 ** (-_DEPTH / 10) + 1e-12)
    rise = np.zeros(len(level))
    half = _LEAP // 2
    rise[half : len(level) - half] = np.maximum(level[_LEAP:] - level[:-_LEAP], 0)
    return rise


def rises_at(rise: Array, moments: Array) -> NDArray[np.float32]:
    """The rise around each moment.

    Args:
        rise: of :func:`level_rise`.
        moments: (N,) frames; those closer than :data:`REACH` to an end are skipped.

    Returns:
        (M, 401) from 0.2 s before to 0.2 s after.
    """
    places = np.round(moments * (_RATE / FPS)).astype(int)
    places = places[(places >= _AROUND) & (places + _AROUND < len(rise))]
    return np.asarray(rise[places[:, None] + np.arange(-_AROUND, _AROUND + 1)], np.float32)


def find_zero(clips: Sequence[NDArray[np.float32]], seed: int = 0) -> Zero:
    """Delay at which the mean rise over all partings has its peak.

    Args:
        clips: of :func:`rises_at`, one per clip.
        seed: seed of the bootstrap.

    Returns:
        The remaining offset of the moments, minus :data:`RELEASE_LAG`.
    """
    rises = np.stack([clip.sum(0) for clip in clips if len(clip)] or [np.zeros(2 * _AROUND + 1)])
    partings, known = sum(map(len, clips)), len(rises)
    if not partings:
        return Zero(math.nan, math.nan, math.nan, 0, 0)
    offset = _peak(rises.sum(0)) - RELEASE_LAG
    if known < 2:
        return Zero(offset, math.nan, math.nan, partings, known)
    low, high = bootstrap_ci(lambda weights: np.array([_peak(total) for total in weights @ rises]), known, seed=seed)
    return Zero(offset, low - RELEASE_LAG, high - RELEASE_LAG, partings, known)


def _peak(total: Array) -> float:
    """Frames from the middle to the highest point of a smoothed (401,) curve."""
    steps = np.arange(-3 * _SMOOTHING, 3 * _SMOOTHING + 1)
    kernel = np.exp(-0.5 * (steps / _SMOOTHING) ** 2)
    # edges without a full kernel are not candidates
    smooth = np.convolve(total, kernel, mode="valid")
    return (int(smooth.argmax()) - (len(smooth) - 1) // 2) * FPS / _RATE
