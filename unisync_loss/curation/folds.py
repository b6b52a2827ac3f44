"""Folds for cross-fitting: views of a data folder without some speakers, to train experts that align those speakers.

A view is a folder of links to the data with its own ``offsets.csv``, which ``unisync train`` takes like any other.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from unisync_loss.data.clips import list_clips
from unisync_loss.utils.files import write_atomically

UNSEEN = "unseen.txt"


def make_folds(root: str | os.PathLike[str], count: int, out: str | os.PathLike[str]) -> list[Path]:
    """Write the views ``OUT/0`` … ``OUT/<count - 1>``; each skips one ``count``-th of the speakers.

    Args:
        root: store or folder; its ``offsets.csv`` is honoured.
        count: number of folds, at least 2.
        out: folder; views in it are made again.

    Returns:
        The views. ``unseen.txt`` in each lists the clips that it skips.

    Raises:
        ValueError: for fewer than two folds, fewer speakers than folds, or a view that holds something else.
        FileNotFoundError: when the folder does not exist.
    """
    root = Path(root).resolve()
    entries = list_clips(root, ignore_offsets=True)
    offsets = {entry.name: entry.offset for entry in list_clips(root)}
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.speaker] = sizes.get(entry.speaker, 0) + 1
    if not 2 <= count <= len(sizes):
        raise ValueError(f"folds: expected 2 to {len(sizes)} (speakers), got {count}")
    # the largest speaker first, each to the smallest fold, so that folds are of similar size
    loads, fold_of = [0] * count, {}
    for speaker in sorted(sizes, key=lambda name: (-sizes[name], name)):
        fold_of[speaker] = loads.index(min(loads))
        loads[fold_of[speaker]] += sizes[speaker]
    views = []
    for fold in range(count):
        view = Path(out) / str(fold)
        _link(root, view)
        unseen = {entry.name for entry in entries if fold_of[entry.speaker] == fold}
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("clip", "offset_frames"))
        for entry in entries:
            offset = None if entry.name in unseen else offsets.get(entry.name)
            writer.writerow((entry.name, "" if offset is None else f"{offset:g}"))
        write_atomically(view / UNSEEN, "".join(f"{name}\n" for name in sorted(unseen)))
        write_atomically(view / "offsets.csv", table.getvalue())
        views.append(view)
    return views


def _link(root: Path, view: Path) -> None:
    view.mkdir(parents=True, exist_ok=True)
    for path in view.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.name not in (UNSEEN, "offsets.csv"):
            raise ValueError(f"{view}: expected an empty folder or a view made before, got one with {path.name}")
    for path in root.iterdir():
        if not path.name.startswith(".") and (path.is_dir() or path.name in ("store.json", "manifest.csv")):
            (view / path.name).symlink_to(path)


def read_unseen(view: str | os.PathLike[str]) -> frozenset[str]:
    """Read the names of the clips that an expert trained on a view was not trained on.

    Args:
        view: folder of :func:`make_folds`, or a text file with one clip name per line.

    Raises:
        FileNotFoundError: without the list.
    """
    path = Path(view)
    if path.is_dir():
        path = path / UNSEEN
    return frozenset(line for line in path.read_text("utf-8", "surrogateescape").split("\n") if line)
