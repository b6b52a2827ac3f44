"""Clips of training folders, cached and loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import ClipEntry, list_split
from unisync_loss.data.store import is_store_or_split
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.representations.coefficients import MorphableInput
from unisync_loss.training.data.cache import build_cache
from unisync_loss.training.data.cache_parts import part_of
from unisync_loss.training.data.dataset import AudioFeatures, CachedClipDataset
from unisync_loss.training.data.stored_features import stored_width
from unisync_loss.utils.progress import Progress


def load_clips(
    name: str,
    entries: list[ClipEntry],
    cache: Path,
    config: UniSyncConfig,
    shortest: int,
    workers: int,
    audio_features: AudioFeatures | None,
    log: Callable[[str], None],
) -> CachedClipDataset:
    """Measure what is not in the cache yet, and read it.

    Args:
        name: of the clips, in lines of progress.
        entries: the clips, see :func:`list_folders`.
        cache: folder of the cache.
        config: of the expert.
        shortest: frames that a clip must have.
        workers: processes that measure.
        audio_features: features of an encoder; None for mel.
        log: takes lines of progress, and names what is left out.

    Raises:
        ValueError: without a usable clip, or when more than half of them cannot be used.
    """
    reasons: dict[str, str] = {}
    progress: Progress | None = None
    for done, total, reasons in build_cache(entries, cache, workers, part_of(config, entries)):  # noqa: B007
        progress = progress or Progress(log, total, "clips measured", done=done)
        progress.update(done)
    data = CachedClipDataset.from_cache(entries, cache, config, shortest, audio_features, log)
    used = {entry.path for entry in data.entries}
    # another run with the same cache may have measured what failed here
    reasons = {entry.name: reasons[entry.name] for entry in entries if entry.name in reasons and entry.path not in used}
    reasons |= data.broken
    for clip, reason in reasons.items():
        log(f"{name}: left out {clip}: {reason}")
    minutes, unusable = data.store.frames.sum() / 25 / 60, len(entries) - len(data) - data.too_short
    log(
        f"{name}: {len(data)} clips, {len(set(data.speaker.tolist()))} speakers, {minutes:.1f} minutes; left out: "
        f"{unusable} that cannot be used, {data.too_short} shorter than {shortest} frames"
    )
    if unusable > len(entries) / 2:
        raise ValueError(
            f"{name}: expected most clips to be usable, got {unusable} of {len(entries)} that are not, such as "
            f"{min(reasons.items(), default='')}: leave them out of the folder, or with an empty offset in offsets.csv"
        )
    return data


def list_folders(folders: Sequence[str]) -> list[ClipEntry]:
    """Clips of several data folders or stores, see :func:`list_split`."""
    return [entry for folder in folders for entry in list_split(folder)]


def stored_coefficients(folders: Sequence[str]) -> int | None:
    """Number of 3DMM coefficients stored with the clips of stores; None for folders, and stores without.

    Raises:
        ValueError: when some clips have none, or numbers differ.
    """
    stores = [folder for folder in folders if is_store_or_split(folder)]
    return stored_width(list_folders(stores), "3dmm")


def standardise(expert: UniSyncExpert, data: CachedClipDataset) -> None:
    """Store mean and deviation of the training clips' coefficients in an expert on 3dmm; others need none."""
    if isinstance(expert.visual_input, MorphableInput):
        expert.visual_input.measure(torch.from_numpy(data.store.per_frame["per_frame"][:, 0].copy()))
