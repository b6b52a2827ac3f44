"""Clips of a store or a folder ``ROOT/<corpus>/<speaker>/<clip>.mp4``, with the offsets of ``ROOT/offsets.csv``."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import PARSING_GROUPS, SAMPLES_PER_FRAME, WINDOW_FRAMES, UniSyncConfig
from unisync_loss.data.store import (
    Record,
    is_store,
    is_store_or_split,
    list_records,
    read_feature_shapes,
    read_features,
    read_record,
)
from unisync_loss.utils.files import read_table
from unisync_loss.utils.tensors import Array
from unisync_loss.video.clip import SUFFIXES, Clip, read_clip
from unisync_loss.video.extraction import check_provided, visual_of_features, visual_of_mesh
from unisync_loss.video.face_mesh import face_mesh, fill_gaps

logger = logging.getLogger(__name__)
#: representations read from a store where it has them: axes and description of the arrays of :func:`clip_features`
STORED = {
    "3dmm": (2, "({frames}, E) floating point"),
    "parsing": (4, "({frames}, H, W) whole-number labels or ({frames}, 6, H, W) probabilities"),
}


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a folder or a store.

    Attributes:
        path: the file, or the shard.
        name: path relative to the folder, with forward slashes.
        corpus: first folder.
        speaker: ``<corpus>/<speaker>``.
        offset: frames by which the audio is late (positive) or early; :func:`load_clip` corrects it.
        language: from ``manifest.csv`` beside or above the folder, ``"?"`` where unknown.
        record: of the store; None for a file.
    """

    path: Path
    name: str
    corpus: str
    speaker: str
    offset: float = 0.0
    language: str = "?"
    record: Record | None = None


def list_clips(root: str | os.PathLike[str], *, ignore_offsets: bool = False) -> list[ClipEntry]:
    """List the clips of a data folder or store in order of name.

    Args:
        root: store made by ``unisync prepare``; ``STORE/train``, ``STORE/val``, ``STORE/test``: a split of it; or a
            folder of ``<corpus>/<speaker>/<clip>`` video files, such as LRS2's ``mvlrs_v1`` and LRS3. Its
            ``offsets.csv`` (``clip,offset_frames,…``) gives the offset of the clips that it names; clips with an empty
            offset are skipped.
        ignore_offsets: do not read ``offsets.csv``; the whole store or folder only.

    Returns:
        The clips.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: when it holds no clips, or ``offsets.csv`` cannot be read or names a clip that is not there.
    """
    root, split = Path(root), ""
    if not ignore_offsets and is_store_or_split(root) and not is_store(root):
        root, split = root.parent, root.name
    if not root.is_dir():
        raise FileNotFoundError(f"no such data folder: {root}")
    offsets = {} if ignore_offsets else read_offsets(root / "offsets.csv")
    languages = _read_languages(root)
    entries = []
    skipped = 0
    unused = set(offsets)
    for name, path, record in _files(root):
        unused.discard(name)
        offset = offsets.get(name, 0.0)
        if record is not None and split not in ("", split_of(record)):
            continue
        if offset is None:
            skipped += 1
            continue
        corpus, speaker, _ = name.split("/")
        language = languages.get(name, "?")
        entries.append(ClipEntry(path, name, corpus, f"{corpus}/{speaker}", offset, language, record))
    if unused:  # such a line would leave a clip uncorrected, or let in one that is to be skipped
        raise ValueError(
            f"{root / 'offsets.csv'}: expected names of clips below {root}, such as corpus/speaker/clip.mp4, got "
            f"{len(unused)} of other files, such as {min(unused)!r}: correct or remove these lines"
        )
    if not entries and split:
        raise ValueError(f"{root}: expected clips of the split {split}, found none")
    if not entries:
        raise ValueError(f"expected {root}/<corpus>/<speaker>/<clip>.mp4, found no video file there")
    logger.info("%s: %d clips, %d skipped by offsets.csv", root, len(entries), skipped)
    return entries


def list_split(root: str | os.PathLike[str]) -> list[ClipEntry]:
    """As :func:`list_clips`, but a store with several splits is refused unless one is named.

    Raises:
        FileNotFoundError: when the folder does not exist.
        ValueError: for clips of more than one split, and as :func:`list_clips`.
    """
    entries = list_clips(root)
    splits = sorted({split_of(entry.record) for entry in entries if entry.record is not None})
    if len(splits) > 1:
        choice = " or ".join(f"{root}/{split}" for split in splits)
        raise ValueError(f"{root}: expected clips of one split, got a store with {len(splits)}: give {choice}")
    return entries


def split_of(record: Record) -> str:
    """Split of a store's clip; ``train`` where the data set defines none."""
    return record.facts.get("split") or "train"


def _files(root: Path) -> Iterator[tuple[str, Path, Record | None]]:
    if is_store(root):
        for record in list_records(root):
            yield f"{record.key}.mp4", record.shard, record
        return
    for path in sorted(root.glob("*/*/*")):
        if path.suffix.lower() in SUFFIXES:
            yield path.relative_to(root).as_posix(), path, None


def decode_clip(entry: ClipEntry) -> Clip:
    """Decode a clip without correcting its offset.

    Raises:
        ValueError: when it cannot be decoded.
    """
    return read_clip(entry.path) if entry.record is None else read_record(entry.record)


def stored_mesh(entry: ClipEntry) -> NDArray[np.float32] | None:
    """Face mesh that ``unisync prepare`` stored with a clip.

    Returns:
        (T, 468, 3) as :func:`unisync_loss.video.face_mesh.face_mesh` gives it, NaN where no face was found, rounded to
        float16; None for a file, and for a clip stored without a mesh.
    """
    mesh = read_features(entry.record).get("mesh") if entry.record is not None else None
    return None if mesh is None else mesh.astype(np.float32)


def clip_mesh(entry: ClipEntry, frames: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """Face mesh of a clip: from the store where it has one, else measured from the frames.

    Args:
        entry: the clip.
        frames: (T, H, W, 3) of :func:`decode_clip`, where the caller has them.

    Returns:
        (T, 468, 3) as :func:`unisync_loss.video.face_mesh.face_mesh` gives it, gaps filled; its offset not corrected.

    Raises:
        ValueError: when the clip cannot be decoded, or shows no face in more than a fifth of its frames.
        ImportError: without MediaPipe, when the mesh has to be measured.
    """
    mesh = stored_mesh(entry)
    if mesh is None:
        mesh = face_mesh(decode_clip(entry).frames if frames is None else frames, depth=True)
    try:
        return fill_gaps(mesh)
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}") from error


def clip_features(entry: ClipEntry, visual: str) -> Array | None:
    """Array of a visual representation that ``unisync prepare --features`` stored with a clip.

    Args:
        entry: the clip.
        visual: representation, under whose name the array is stored: ``"3dmm"`` or ``"parsing"``.

    Returns:
        ``3dmm``: (T, E) float32 coefficients. ``parsing``: (T, H, W) uint8 labels or (T, 6, H, W) float32 probabilities
        of :data:`unisync_loss.config.PARSING_GROUPS`. None for a file, and where nothing is stored under that name.

    Raises:
        ValueError: for an array of another shape or type, labels of other classes, or numbers that are not finite.
    """
    if entry.record is None or visual not in STORED:
        return None
    array = read_features(entry.record).get(visual)
    if array is None:
        return None
    floating = np.issubdtype(array.dtype, np.floating)
    labels = visual == "parsing" and array.ndim == 3 and np.issubdtype(array.dtype, np.integer)
    groups = len(PARSING_GROUPS)
    numbers = floating and array.ndim == STORED[visual][0] and (visual == "3dmm" or array.shape[1] == groups)
    if len(array) != entry.record.frames or not (labels or numbers):
        expected = STORED[visual][1].format(frames=entry.record.frames)
        raise ValueError(f"{entry.name}: {visual}: expected {expected}, got {array.shape} {array.dtype}")
    if floating and not np.isfinite(array).all():
        raise ValueError(f"{entry.name}: {visual}: expected finite numbers, got NaN or infinity")
    if labels and not 0 <= array.min() <= array.max() < groups:
        raise ValueError(
            f"{entry.name}: parsing: expected labels in [0, {groups}), got {array.min()} … {array.max()}; mouth_groups "
            "makes them from the classes of a parser"
        )
    return array.astype(np.float32) if floating else array.astype(np.uint8)


def visual_of_clip(config: UniSyncConfig, entry: ClipEntry, clip: Clip) -> Tensor:
    """Visual representation of a clip: stored features, else made from its mesh (:func:`clip_mesh`).

    Args:
        config: of an expert on landmarks, parsing maps or coefficients.
        entry: of the clip.
        clip: of :func:`load_clip`, or its first part; its offset is corrected.

    Returns:
        (1, T, …) as the expert takes it, a row per frame of ``clip``.

    Raises:
        ValueError: for a representation that is neither stored nor can be made from video, a stored one of another
            size, or a clip that shows no face in more than a fifth of its frames.
        ImportError: without MediaPipe, when the mesh has to be measured.
    """
    first, _ = frames_with_audio(len(clip.frames), entry.offset)
    rows = slice(first, first + len(clip.frames))
    stored = clip_features(entry, config.visual)
    if stored is None:
        check_provided(config)
        mesh = clip_mesh(entry, clip.frames)  # a stored one covers all frames, also those that the offset cuts off
        return visual_of_mesh(config, mesh if len(mesh) == len(clip.frames) else mesh[rows], clip.frames.shape[1:3])
    try:
        return visual_of_features(config, stored[rows])
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}") from error


def check_visual(config: UniSyncConfig, entries: Sequence[ClipEntry]) -> None:
    """Refuse an expert whose representation is neither stored with the clips nor can be made from video.

    Raises:
        ValueError: before any work; decided by the first clip.
    """
    record = entries[0].record if entries else None
    # its shapes alone: whether its arrays can be used is a matter of each clip
    if record is None or config.visual not in STORED or config.visual not in read_feature_shapes(record):
        check_provided(config)


def load_clip(entry: ClipEntry) -> Clip:
    """Decode a clip and correct its offset.

    Args:
        entry: of :func:`list_clips`.

    Returns:
        The clip, cut to the frames that have audio.

    Raises:
        ValueError: when the clip cannot be decoded, or is shorter than a window.
    """
    clip = shift_audio(decode_clip(entry), entry.offset)
    if len(clip.frames) < WINDOW_FRAMES:
        raise ValueError(f"{entry.path}: expected at least {WINDOW_FRAMES} frames, got {len(clip.frames)}")
    return clip


def shift_audio(clip: Clip, offset: float) -> Clip:
    """Correct an offset: read the audio ``offset`` frames later.

    Args:
        clip: frames (T, H, W, 3) and waveform (640 T,).
        offset: frames, may be fractional; positive = audio is late.

    Returns:
        The clip without the frames at either end that have no audio then.
    """
    first, last = frames_with_audio(len(clip.frames), offset)
    start = round((first + offset) * SAMPLES_PER_FRAME)
    samples = (last - first) * SAMPLES_PER_FRAME
    return Clip(clip.frames[first:last], clip.waveform[start : start + samples])


def frames_with_audio(frames: int, offset: float) -> tuple[int, int]:
    """First and last (exclusive) frame that have audio once the offset is corrected."""
    first = max(0, math.ceil(-offset))
    return first, max(first, min(frames, math.floor(frames - offset)))


def read_offsets(path: Path) -> dict[str, float | None]:
    """Offsets in frames by clip, None for clips to skip; empty without the file.

    Raises:
        ValueError: when it cannot be read.
    """
    if not path.is_file():
        return {}
    offsets: dict[str, float | None] = {}
    for row in read_table(path, ("clip", "offset_frames")):
        text = row["offset_frames"].strip()
        try:
            offset = float(text) if text else None
        except ValueError as error:
            raise ValueError(f"{path}: expected a number of frames for {row['clip']}, got {text!r}") from error
        if offset is not None and not math.isfinite(offset):
            raise ValueError(f"{path}: expected a finite number of frames for {row['clip']}, got {text!r}")
        offsets[row["clip"]] = offset
    return offsets


def _read_languages(root: Path) -> dict[str, str]:
    for folder, split in ((root, None), (root.parent, root.name)):
        manifest = folder / "manifest.csv"
        if manifest.is_file():
            rows = read_table(manifest, ("clip", "language"))
            return {row["clip"]: row["language"] for row in rows if split is None or row.get("split") == split}
    return {}
