"""Large arrays that grow by pieces, in files without a name: what is used lies in memory as far as there is room."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Table:
    """Pieces with equal axes but the first, one after the other.

    The file goes with the last array that shows it, or with the process, however that ends.

    Args:
        folder: where there is room; where it cannot be written, the system's temporary folder is taken.
    """

    def __init__(self, folder: Path) -> None:
        """Open the file."""
        self._folder = str(folder) if os.access(folder, os.W_OK) else gettempdir()
        self._file = TemporaryFile(dir=self._folder)
        self._rows = 0
        self._kind: tuple[np.dtype[Any], tuple[int, ...]] | None = None  # and shape of a row

    def add(self, piece: NDArray[Any]) -> None:
        """Write a piece.

        Raises:
            ValueError: for rows of another shape or dtype than those before.
            OSError: on a full disk; the folder is named.
        """
        kind = piece.dtype, piece.shape[1:]
        if kind != (self._kind or kind):
            raise ValueError(f"expected rows of {self._kind}, got {kind}")
        try:
            self._file.write(np.ascontiguousarray(piece).data)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._folder) from error
        self._rows, self._kind = self._rows + len(piece), kind

    def array(self) -> NDArray[Any]:
        """All pieces, to read; nothing can be added any more. There must be one that is not empty."""
        assert self._kind is not None
        dtype, row = self._kind
        with self._file as file:
            return np.memmap(file, dtype, "r", shape=(self._rows, *row))
