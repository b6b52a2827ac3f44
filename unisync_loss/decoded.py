"""Pictures of a small store decoded once: kept in RAM, or on disk as arrays that are read where they lie."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.files import fingerprint
from unisync_loss.media import Clip
from unisync_loss.store import Record, read_record, read_sound
from unisync_loss.tracks import CROP_SIZE

logger = logging.getLogger(__name__)


class DecodedClips:
    """Clips of a store whose windows cost no decoding from the second time on.

    The sound is not kept: it lies in the store as samples and is read from there.

    Attributes:
        records: the clips.
        bytes: what all of them take, 2.8 MB a second; logged when this is made.
    """

    def __init__(self, records: Iterable[Record], folder: str | os.PathLike[str] | None = None) -> None:
        """Take clips of `unisync_loss.store.list_records`; nothing is decoded yet.

        Args:
            records: the clips.
            folder: where arrays are written, for several processes to share; None keeps them in RAM.

        Raises:
            ValueError: when the disk has no room for what is missing.
        """
        self.records = list(records)
        self._folder = Path(folder) if folder is not None else None
        self._held: dict[int, NDArray[np.uint8]] = {}
        sizes = [record.frames * CROP_SIZE * CROP_SIZE * 3 for record in self.records]
        self.bytes = sum(sizes)
        logger.info("%d clips decoded take %.2f GB in %s", len(sizes), self.bytes / 1e9, self._folder or "RAM")
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            missing = sum(size for index, size in enumerate(sizes) if not self._path(index, self._folder).exists())
            free = shutil.disk_usage(self._folder).free
            if missing > free:
                raise ValueError(f"{folder}: expected room for {missing / 1e9:.1f} GB, got {free / 1e9:.1f} GB")

    def frames(self, index: int) -> NDArray[np.uint8]:
        """All pictures of a clip, (T, 192, 192, 3) uint8, not to be written to.

        Raises:
            ValueError: when the store is damaged there.
        """
        if index not in self._held:
            self._held[index] = self._decode(index) if self._folder is None else self._map(index, self._folder)
        return self._held[index]

    def window(self, index: int, start: int, frames: int = WINDOW_FRAMES) -> Clip:
        """A stretch of a clip, as `unisync_loss.store.read_window` gives it.

        Raises:
            ValueError: for a stretch outside of the clip, or when the store is damaged there.
        """
        sound = read_sound(self.records[index], start, frames)
        return Clip(self.frames(index)[start : start + frames], sound)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return read_record(self.records[index]).frames

    def _map(self, index: int, folder: Path) -> NDArray[np.uint8]:
        path = self._path(index, folder)
        if not path.exists():
            temporary = path.with_name(f".{os.getpid()}-{path.name}")
            try:
                np.save(temporary, self._decode(index))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        return mapped

    def _path(self, index: int, folder: Path) -> Path:
        record = self.records[index]
        name = f"{fingerprint(record.shard)} {record.key}"
        return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npy"
