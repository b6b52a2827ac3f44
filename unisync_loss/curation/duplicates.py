"""Duplicate search, also for trimmed and re-encoded copies: audio and video as 32-bit codes in an inverted index.

After Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): each bit of a code is the sign of
the change of one of 32 features. Equal codes at one lag make a candidate pair; the share of equal bits over the whole
overlap decides. The cost grows with the number of shared codes, not with the number of pairs. Pure functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import FPS, SAMPLE_RATE
from unisync_loss.video.voicing import SILENCE

_BITS = 32
_HOP = SAMPLE_RATE // 100  # samples between codes of the audio
_SPAN = 4096  # samples behind a code of the audio
_BANDS = np.geomspace(300, 3000, _BITS + 2)  # Hz
_APART = 6  # frames between which frames are compared
_STILL = 0.5  # grey levels of change below which a code carries no information
GRID = 16  # cells along each side of a frame
_COMMON = 16  # clips; a code that more of them share is a jingle, not a copy
_FEWEST = 2  # equal codes at one lag that make a candidate pair
_OVERLAP = 1.0  # s that two clips must share
_EQUAL = 0.75  # share of equal bits in a repeat; unrelated clips have 0.5
_CONFIRMED = 0.7  # the same at a lag known from the other stream

Codes = NDArray[np.uint32]


class Fingerprint(NamedTuple):
    """Codes of a clip.

    Attributes:
        codes: (n,) uint32, in order of time.
        informative: (n,) whether a code is neither of silence nor of a still.
        rate: codes per second.
    """

    codes: Codes
    informative: NDArray[np.bool_]
    rate: int


class Repeat(NamedTuple):
    """A segment that two clips share.

    Attributes:
        first: index of a clip.
        second: index of the other.
        lag: seconds at which ``second`` begins in ``first``.
        seconds: length of the informative overlap.
        equal: share of equal bits in it.
    """

    first: int
    second: int
    lag: float
    seconds: float
    equal: float


def audio_fingerprint(waveform: NDArray[np.float32]) -> Fingerprint:
    """Code a waveform (S,) at 16 kHz, 100 per second: sign of the change of the slope between neighbouring bands."""
    padded = np.pad(waveform, _SPAN // 2)
    slices = np.lib.stride_tricks.sliding_window_view(padded, _SPAN)[::_HOP]
    edges = np.round(_BANDS * _SPAN / SAMPLE_RATE).astype(int)
    window = np.hanning(_SPAN).astype(np.float32)
    energy = np.concatenate(
        [
            np.add.reduceat(np.abs(np.fft.rfft(slices[start : start + 256] * window)) ** 2, edges, axis=1)[:, :-1]
            for start in range(0, len(slices), 256)
        ]
    )
    slope = np.diff(np.log(energy + 1e-6), axis=1)
    level = np.sqrt((slices[:, :: _SPAN // 256].astype(np.float64) ** 2).mean(1))
    return Fingerprint(_pack(np.diff(slope, axis=0) > 0), level[1:] > SILENCE, SAMPLE_RATE // _HOP)


def frame_fingerprint(cells: NDArray[np.float32]) -> Fingerprint:
    """Code frames shrunk to (T, 16, 16, 3), 25 per second: signs of 32 fixed random mixtures of changes in 0.24 s."""
    cells = cells.mean(-1)
    change = cells[_APART:] - cells[:-_APART] if len(cells) > _APART else cells[:0]
    mixtures = np.random.default_rng(0).normal(size=(GRID * GRID, _BITS))
    # a change of the light moves all cells alike, in any clip
    change = (change - change.mean((1, 2), keepdims=True)).reshape(len(change), -1)
    codes = _pack(change @ mixtures > 0)
    return Fingerprint(codes, np.abs(change).mean(1) > _STILL, FPS)


def shrink_frames(frames: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Mean of every cell of a grid, (T, H, W, 3) → (T, side, side, 3); H and W of at least ``side`` pixels."""
    height, width = frames.shape[1:3]
    rows, columns = np.arange(side + 1) * height // side, np.arange(side + 1) * width // side
    small = np.empty((len(frames), side, side, 3), np.float32)
    for index, frame in enumerate(frames):  # one at a time: a float copy of the clip would be four times its size
        small[index] = np.add.reduceat(
            np.add.reduceat(frame, rows[:-1], axis=0, dtype=np.float32), columns[:-1], axis=1
        )
    return small / (np.diff(rows)[:, None] * np.diff(columns))[..., None]


def find_repeats(prints: Sequence[Fingerprint]) -> list[Repeat]:
    """Find pairs of clips that share a second or more.

    Args:
        prints: of every clip, all of audio or all of frames.

    Returns:
        At most one per pair, ``first`` < ``second`` by index in ``prints``.
    """
    owner = np.repeat(np.arange(len(prints)), [len(each.codes) for each in prints])
    place = np.concatenate([np.zeros(0, int), *(np.arange(len(each.codes)) for each in prints)])
    codes = np.concatenate([np.zeros(0, np.uint32), *(each.codes for each in prints)])
    informative = np.concatenate([np.zeros(0, bool), *(each.informative for each in prints)])
    owner, place, codes = owner[informative], place[informative], codes[informative]
    order = np.argsort(codes, kind="stable")
    owner, place, codes = owner[order], place[order], codes[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(codes) else np.zeros(0, int)
    votes: Counter[tuple[int, int, int]] = Counter()
    for start, size in zip(starts, np.diff(np.r_[starts, len(codes)]), strict=True):
        if size == 1 or len(set(owner[start : start + size].tolist())) not in range(2, _COMMON + 1):
            continue
        members = list(zip(owner[start : start + size].tolist(), place[start : start + size].tolist(), strict=True))
        for index, (one, here) in enumerate(members):
            votes.update((one, other, here - there) for other, there in members[index + 1 :] if other != one)
    best: dict[tuple[int, int], tuple[int, int]] = {}
    for (one, other, lag), count in votes.items():
        if count >= _FEWEST:
            best[one, other] = max(best.get((one, other), (0, 0)), (count, lag))
    found = (_compare(prints, pair, lag) for pair, (_, lag) in sorted(best.items()))
    return [repeat for repeat in found if repeat.seconds >= _OVERLAP and repeat.equal >= _EQUAL]


def confirm_repeats(prints: Sequence[Fingerprint], repeats: Sequence[Repeat]) -> list[Repeat]:
    """Look for repeats of one stream at the same lag in the other, where noise may have left no code equal.

    Args:
        prints: of the frames of every clip, for repeats of the audio; or the reverse.
        repeats: of :func:`find_repeats`.

    Returns:
        The repeats that these fingerprints confirm, measured on them.
    """
    pairs = (((repeat.first, repeat.second), repeat.lag) for repeat in repeats)
    found = (_compare(prints, pair, round(lag * prints[pair[0]].rate)) for pair, lag in pairs)
    return [repeat for repeat in found if repeat.seconds >= _OVERLAP and repeat.equal >= _CONFIRMED]


def _compare(prints: Sequence[Fingerprint], pair: tuple[int, int], lag: int) -> Repeat:
    """Share of equal bits where both are informative, at the best of three neighbouring lags."""
    first, second = (prints[index] for index in pair)
    results = [Repeat(*pair, lag / first.rate, 0.0, 0.0)]
    for shift in (lag - 1, lag, lag + 1):
        begin, end = max(0, shift), min(len(first.codes), len(second.codes) + shift)
        if end <= begin:
            continue
        informative = first.informative[begin:end] & second.informative[begin - shift : end - shift]
        differ = first.codes[begin:end][informative] ^ second.codes[begin - shift : end - shift][informative]
        equal = 1 - np.unpackbits(differ.view(np.uint8)).mean() if len(differ) else 0.0
        results.append(Repeat(*pair, shift / first.rate, int(informative.sum()) / first.rate, float(equal)))
    return max(results, key=lambda repeat: repeat.equal)


def _pack(bits: NDArray[np.bool_]) -> Codes:
    """Pack (n, 32) bits into (n,) codes."""
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint32).reshape(-1)
