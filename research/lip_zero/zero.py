"""Reference offset of each corpus of a folder or store, see :mod:`research.lip_zero.closures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from research.lip_zero.closures import (
    CLIPS,
    FEWEST,
    WIDEST,
    find_partings,
    find_zero,
    level_rise,
    lip_gap,
    rises_at,
)
from unisync_loss.data import ClipEntry
from unisync_loss.data.clips import clip_mesh, decode_clip, stored_mesh
from unisync_loss.data.store import read_waveform
from unisync_loss.utils.progress import Progress

Rises = NDArray[np.float32]
_ENOUGH = 1000  # partings of a corpus: more would make its interval narrower than the uncertainty of the method


def read_rises(
    entries: Sequence[ClipEntry], estimates: Sequence[float | None], log: Callable[[str], None] = lambda line: None
) -> dict[str, list[Rises]]:
    """Read the audio rises at lip partings, with the audio corrected by the estimates.

    Args:
        entries: clips, uncorrected.
        estimates: offset of each in frames; clips without one are skipped.
        log: called with lines of progress.

    Returns:
        `rises_at` of the clips of each corpus; clips without a face, and those beyond 1000 partings of a
        corpus, are skipped.

    Raises:
        ImportError: without MediaPipe, for clips that are not of a store.
    """
    rises: dict[str, list[Rises]] = {entry.corpus: [] for entry in entries}
    partings = dict.fromkeys(rises, 0)
    progress = Progress(log, len(entries), "clips")
    # in random order, because the first clips by name may be of one speaker
    for done, index in enumerate(np.random.default_rng(0).permutation(len(entries)).tolist()):
        entry, estimate = entries[index], estimates[index]
        progress.update(done)
        if estimate is None or partings[entry.corpus] >= _ENOUGH:
            continue
        try:
            gap, sound = read_lips(entry)
        except (ValueError, OSError):  # align.jsonl has the reason, or there is no face
            continue
        rises[entry.corpus].append(rises_at(level_rise(sound), find_partings(gap) + estimate))
        partings[entry.corpus] += len(rises[entry.corpus][-1])
    return rises


def read_lips(entry: ClipEntry) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Gap between the lips (T,) and waveform (640 T,) of a clip, its offset not corrected.

    Raises:
        ValueError: when it cannot be read, or shows no face in more than a fifth of its frames.
        ImportError: without MediaPipe, where it is needed.
    """
    if entry.record is not None and stored_mesh(entry) is not None:  # crops of a store are square
        return lip_gap(clip_mesh(entry), (1, 1)), read_waveform(entry.record, 0, entry.record.frames)
    clip = decode_clip(entry)
    height, width = clip.frames.shape[1:3]
    return lip_gap(clip_mesh(entry, clip.frames), (height, width)), clip.waveform


def settle_zeros(rises: Mapping[str, Sequence[Rises]]) -> dict[str, dict[str, Any]]:
    """Choose a reference offset for every corpus: its own if that is reliable.

    Args:
        rises: of :func:`read_rises`.

    Returns:
        By corpus ``zero``: offset that the expert gives to clips in sync, frames; ``basis``: ``corpus``, or else
        ``small corpora`` pooled if those are reliable, or ``others``, the mean of the reliable ones; ``interval``
        (95 %, None for fewer than two clips), ``partings`` and ``clips`` of the corpus itself.

    Raises:
        ValueError: if none is reliable.
    """
    zeros = {corpus: find_zero(clips) for corpus, clips in rises.items()}
    sure = [zero.offset for zero in zeros.values() if zero.is_reliable]
    small = find_zero([clip for corpus, clips in rises.items() if not zeros[corpus].is_reliable for clip in clips])
    if not sure and not small.is_reliable:
        rows = [
            f"{name} {row.partings} in {row.clips}, {row.low:+.2f} to {row.high:+.2f}" for name, row in zeros.items()
        ]
        raise ValueError(
            f"zero: expected {FEWEST} partings of lips in {CLIPS} clips and an interval within {WIDEST} frames on "
            f"either side, found {'; '.join(rows)}"
        )
    common, basis = (small.offset, "small corpora") if small.is_reliable else (float(np.mean(sure)), "others")
    return {
        corpus: {
            "zero": round(-(zero.offset if zero.is_reliable else common), 3),
            "basis": "corpus" if zero.is_reliable else basis,
            "interval": None if math.isnan(zero.low) else [round(-zero.high, 3), round(-zero.low, 3)],
            "partings": zero.partings,
            "clips": zero.clips,
        }
        for corpus, zero in zeros.items()
    }
