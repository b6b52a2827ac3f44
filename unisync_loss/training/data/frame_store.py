"""Aligned clips in memory-mapped arrays, one after the other, with the index of where each begins."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.utils.tensors import Array


@dataclass(frozen=True)
class AlignedClip:
    """A clip of T frames with its offset applied.

    Attributes:
        per_frame: arrays (T, …) by name.
        per_clip: arrays of the whole clip by name.
        audio: features (M, F).
        voiced: (T,) whether the window that begins at a frame contains speech.
    """

    per_frame: dict[str, NDArray[Any]]
    per_clip: dict[str, NDArray[Any]]
    audio: NDArray[np.float16]
    voiced: NDArray[np.bool_]


class AppendOnlyArray:
    """Chunks of rows, one after the other.

    The file is removed with the last array that maps it, or with the process, however that ends.

    Args:
        folder: where there is room; the system's temporary folder is used where it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder) if os.access(folder, os.W_OK) else gettempdir()
        self._file = TemporaryFile(dir=self._folder)
        self._rows = 0
        self._kind: tuple[np.dtype[Any], tuple[int, ...]] | None = None  # dtype and shape of a row

    def add(self, rows: NDArray[Any]) -> None:
        """Append rows (N, …).

        Raises:
            ValueError: for rows of another shape or dtype than those before.
            OSError: on a full disk; the folder is named.
        """
        kind = rows.dtype, rows.shape[1:]
        if kind != (self._kind or kind):
            raise ValueError(f"expected rows of {self._kind}, got {kind}")
        try:
            self._file.write(np.ascontiguousarray(rows).data)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._folder) from error
        self._rows, self._kind = self._rows + len(rows), kind

    def array(self) -> NDArray[Any]:
        """All rows, read-only; nothing can be added afterwards. There must be a row."""
        assert self._kind is not None
        dtype, row = self._kind
        with self._file as file:
            return np.memmap(file, dtype, "r", shape=(self._rows, *row))


class FrameStore:
    """Arrays of many clips, gathered by clip and frame.

    Args:
        folder: where there is room for files; see :class:`AppendOnlyArray`.

    Attributes:
        frames: (C,) frames of each clip, after :meth:`finish`.
        voiced: (all frames,) see :class:`AlignedClip`.
        first_frame: (C,) place of each clip's first frame.
        per_frame: arrays (all frames, …) by name.
        per_clip: arrays (C, …) by name.
        audio: (all audio steps, F).
        first_step: (C,) place of each clip's first audio step.
    """

    frames: NDArray[np.int64]
    voiced: NDArray[np.bool_]
    first_frame: NDArray[np.int64]
    first_step: NDArray[np.int64]
    per_frame: dict[str, NDArray[Any]]
    per_clip: dict[str, NDArray[Any]]
    audio: NDArray[np.float16]

    def __init__(self, folder: Path) -> None:
        self._per_frame, self._per_clip = (
            defaultdict[str, AppendOnlyArray](partial(AppendOnlyArray, folder)) for _ in range(2)
        )
        self._audio = AppendOnlyArray(folder)
        self._steps: list[int] = []
        self._voiced: list[NDArray[np.bool_]] = []

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._steps)

    def add(self, clip: AlignedClip) -> None:
        """Append a clip.

        Raises:
            ValueError: for arrays of another shape or dtype than those of the clips before.
            OSError: on a full disk.
        """
        self._audio.add(clip.audio)
        for name, values in clip.per_frame.items():
            self._per_frame[name].add(values)
        for name, values in clip.per_clip.items():
            self._per_clip[name].add(values[None])
        self._steps.append(len(clip.audio))
        self._voiced.append(clip.voiced)

    def finish(self) -> None:
        """Open the arrays for reading; nothing can be added afterwards. There must be a clip."""
        self.frames = np.array([len(voiced) for voiced in self._voiced])
        self.voiced = np.concatenate(self._voiced)
        self.first_frame = np.cumsum([0, *self.frames[:-1]])
        self.first_step = np.cumsum([0, *self._steps[:-1]])
        self.per_frame = {name: table.array() for name, table in self._per_frame.items()}
        self.per_clip = {name: table.array() for name, table in self._per_clip.items()}
        self.audio = self._audio.array()

    def gather_frames(
        self, clip: NDArray[np.int64], start: NDArray[Any], length: int, tempo: Array
    ) -> dict[str, Tensor]:
        """Frames of segments, linear between two frames; clamped to the clip.

        Args:
            clip: (N,) indices of clips.
            start: (N,) first frames.
            length: frames L of a segment.
            tempo: (N,) frames of the clip per frame of the segment.

        Returns:
            (N, L, …) by name.
        """
        frame = start[:, None] + np.arange(length) * tempo[:, None]
        place = self.first_frame[clip, None] + frame.clip(0, self.frames[clip, None] - 1)
        return {name: interpolate(values, place) for name, values in self.per_frame.items()}

    def gather_audio(self, clip: NDArray[np.int64], first: Array, steps: int, tempo: Array) -> Tensor:
        """Audio steps (N, steps, F) from step ``first`` (N,), ``tempo`` (N,) apart; clamped to the clip."""
        step = first[:, None] + np.arange(steps) * tempo[:, None]
        last = np.diff([*self.first_step, len(self.audio)])[clip, None] - 1
        return interpolate(self.audio, self.first_step[clip, None] + step.clip(0, last)).float()


def interpolate(values: NDArray[Any], place: Array) -> Tensor:
    """Values (N, L, …) at fractional places (N, L) along the first axis, linear between neighbours."""
    low = np.floor(place).astype(int)
    mixed = torch.from_numpy(values[low])
    share = (place - low).astype(np.float32)
    rows = (share > 0).any(1)  # most segments are at whole frames: they are not touched
    if rows.any():
        high = torch.from_numpy(values[np.minimum(low + 1, len(values) - 1)[rows]])
        weight = torch.from_numpy(share[rows]).reshape(*high.shape[:2], *[1] * (high.ndim - 2))
        between = mixed[rows].float().lerp(high.float(), weight)
        mixed[rows] = (between.round() if mixed.dtype == torch.uint8 else between).to(mixed.dtype)
    return mixed
