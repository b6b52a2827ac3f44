"""Clip cache for training: what training reads repeatedly, computed once per clip; one file per clip and part."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from unisync_loss.data.clips import ClipEntry
from unisync_loss.training.data.cache_parts import PARTS, Arrays, ClipSource
from unisync_loss.utils.files import fingerprint, write_atomically
from unisync_loss.utils.process_pool import run_tasks

VERSION = 1  # of the stored arrays; a change of their meaning makes old caches unused


def build_cache(
    entries: list[ClipEntry], folder: Path, workers: int, part: str = "mouth"
) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Compute what is missing, each file under a temporary name first.

    Args:
        entries: the clips.
        folder: of the cache; made if missing.
        workers: processes.
        part: one of :data:`PARTS`.

    Yields:
        Clips done, clips in all, and the reasons of those skipped so far by clip name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    readable: list[ClipEntry] = []
    skipped: dict[str, str] = {}
    for entry in entries:
        if _is_readable(entry):
            readable.append(entry)
        else:
            skipped[entry.name] = f"no file that can be read: {entry.path}"
    todo = [entry for entry in readable if not cache_path(entry, folder, part).exists()]
    done = len(entries) - len(todo)
    yield done, len(entries), skipped
    for result in run_tasks([(entry, folder, part) for entry in todo], _cache_one, _died, min(workers, len(todo))):
        if result is not None:
            name, reason = result
            done += 1
            if reason:
                skipped[name] = reason
        yield done, len(entries), skipped


def is_cached(entry: ClipEntry, folder: Path, part: str) -> bool:
    """Whether a clip is in the cache; never one whose file is gone, since the name depends on its content."""
    return _is_readable(entry) and cache_path(entry, folder, part).exists()


def _is_readable(entry: ClipEntry) -> bool:
    return entry.path.is_file() and os.access(entry.path, os.R_OK)


def cache_path(entry: ClipEntry, folder: Path, part: str) -> Path:
    """File of one clip, named by the source's content: a copied or moved clip is found again."""
    key = f"{VERSION} {fingerprint(entry.path)}"
    if entry.record is not None:
        key += f" {entry.record.key}"
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.{part}.safetensors"


def load(entry: ClipEntry, folder: Path, part: str) -> Arrays:
    """Read one part of one clip: the arrays of its ``measure`` in :data:`PARTS`.

    Raises:
        SafetensorError: for a damaged file.
    """
    return load_file(cache_path(entry, folder, part))


def _cache_one(task: tuple[ClipEntry, Path, str]) -> tuple[str, str]:
    """Cache one clip; returns its name and the reason it was skipped, or an empty reason."""
    entry, folder, part = task
    source = ClipSource(entry)
    try:
        for name in (*PARTS[part].also, part):
            arrays = {key: np.ascontiguousarray(value) for key, value in PARTS[name].measure(source).items()}
            write_atomically(cache_path(entry, folder, name), save(arrays))
    except ValueError as error:
        return entry.name, str(error)
    return entry.name, ""


def _died(task: tuple[ClipEntry, Path, str], how: str) -> tuple[str, str]:
    return task[0].name, f"the process that measured it {how}"
