"""Append-only arrays backed by unnamed temporary files and memory-mapped for reading."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
