"""Writer of clip stores: inputs are staged one by one, then appended to shards in order.

The clips of an input are contiguous in a shard, and a shard is closed after the input that fills it. So the shards are
the same for any number of workers and after any interruption.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from unisync_loss.data.store import FORMAT, MEMBERS, is_store, read_lines
from unisync_loss.utils.files import read_json, write_atomically

SHARD_BYTES = 256 * 2**20  # size at which a shard is closed: 38 minutes of video at 0.42 GB an hour (docs/scale.md)
_BLOCK = tarfile.BLOCKSIZE


def open_store(root: Path, settings: dict[str, Any]) -> None:
    """Create a store, or check the settings of an existing one.

    Raises:
        ValueError: for a folder with other contents, or a store with other settings.
    """
    if is_store(root):
        check_store(root, settings)
    elif root.is_dir() and any(root.iterdir()):
        raise ValueError(f"{root}: expected an empty folder or a store, got a folder with other contents")
    (root / "shards").mkdir(parents=True, exist_ok=True)
    write_atomically(root / "store.json", json.dumps({"format": FORMAT, **settings}) + "\n")


def check_store(root: Path, settings: dict[str, Any]) -> None:
    """Check the settings of an existing store.

    Raises:
        ValueError: when they differ.
    """
    made, settings = read_json(root / "store.json"), {"format": FORMAT, **settings}
    if made != settings:
        raise ValueError(f"{root}: expected a store made with {settings}, got one made with {made}")


class StagedInput:
    """Clips of one input as consecutive tar members, under a temporary name until finished.

    Args:
        folder: where inputs are staged.
        name: of the input, see :func:`unisync_loss.data.preparation.staged_name`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._tar_path, self._line_path = folder / f"{name}.tar", folder / f"{name}.json"
        self._temporary = folder / f".{name}.{os.getpid()}.tar"
        # the plainest format: every header is one block, so positions follow from sizes
        self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)
        self.records: list[dict[str, Any]] = []

    def add(self, facts: dict[str, Any], members: dict[str, bytes]) -> None:
        """Add a clip.

        Args:
            facts: content of its ``.json``, with its key.
            members: content of its other files by suffix.
        """
        places = {}
        for member in MEMBERS:
            data = (json.dumps(facts) + "\n").encode() if member == "json" else members[member]
            info = tarfile.TarInfo(f"{facts['key']}.{member}")
            info.size = len(data)
            self._tar.addfile(info, BytesIO(data))
            places[member] = (self._tar.offset - -(-len(data) // _BLOCK) * _BLOCK, len(data))
        self.records.append({**facts, "places": places})

    def finish(self, line: dict[str, Any]) -> None:
        """Move the tar into place, with the manifest line of the input beside it."""
        length = self._tar.offset
        self._tar.close()
        self._temporary.replace(self._tar_path)
        write_atomically(self._line_path, json.dumps({**line, "bytes": (0, length), "records": self.records}))

    def abandon(self) -> None:
        """Remove what was written."""
        self._tar.close()
        self._temporary.unlink(missing_ok=True)


def read_staged(folder: Path, name: str) -> dict[str, Any] | None:
    """Manifest line of a staged input; None unless it is finished."""
    try:
        return read_json(folder / f"{name}.json")
    except FileNotFoundError:
        return None


class ShardWriter:
    """Appends inputs to shards ``<prefix>NNNNNN`` in the order given, after the last complete shard.

    Unfinished shards of an interrupted run are removed.
    """

    def __init__(self, root: Path, prefix: str = "", shard_bytes: int = SHARD_BYTES) -> None:
        self._shards, self._prefix, self._limit = root / "shards", prefix, shard_bytes
        whole = [path.stem for path in self._shards.glob("[!.]*.jsonl") if path.stem[:-6] == prefix]
        self._number = max((int(stem[-6:]) + 1 for stem in whole), default=0)
        for path in (*self._shards.glob(f"{prefix}*.tar"), *self._shards.glob(f".{prefix}*")):
            stem = path.name.lstrip(".").partition(".")[0]
            if stem not in whole and stem[:-6] == prefix:
                path.unlink()
        self._file: BinaryIO | None = None
        self._lines: list[dict[str, Any]] = []
        self._consumed: list[Path] = []

    def append(self, line: dict[str, Any], tar: Path | None, consumed: Iterable[Path] = ()) -> None:
        """Append an input.

        Args:
            line: of the manifest, with ``records`` and the range ``bytes`` of ``tar`` that holds them.
            tar: file with the clips; None when there are none.
            consumed: files to remove once the shard is complete.
        """
        self._consumed += consumed
        if self._file is None:
            self._file = self._temporary.open("wb")
        base = self._file.tell()
        first, length = line["bytes"]
        if tar is not None and length:
            with tar.open("rb") as source:
                source.seek(first)
                _copy(source, self._file, length, tar)
        for record in line["records"]:
            moved = {member: (place[0] - first + base, place[1]) for member, place in record["places"].items()}
            record["places"] = moved
        self._lines.append({**line, "bytes": (base, length)})
        if self._file.tell() >= self._limit:
            self.close()

    def close(self) -> None:
        """Complete the current shard, if there is one."""
        if self._file is None:
            return
        stem = f"{self._prefix}{self._number:06d}"
        self._file.write(bytes(2 * _BLOCK))  # the end of a tar file
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._shards / f"{stem}.tar")
        write_atomically(self._shards / f"{stem}.jsonl", "".join(json.dumps(line) + "\n" for line in self._lines))
        for path in self._consumed:
            path.unlink(missing_ok=True)
        self._number += 1
        self._file, self._lines, self._consumed = None, [], []

    def abandon(self) -> None:
        """Drop the current shard; its staged inputs are kept for a later run."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)
            self._file = None

    @property
    def _temporary(self) -> Path:
        return self._shards / f".{self._prefix}{self._number:06d}"


def _copy(source: BinaryIO, target: BinaryIO, length: int, name: Path) -> None:
    while length:
        block = source.read(min(length, 2**20))  # a megabyte at a time: constant memory
        if not block:
            raise ValueError(f"{name}: expected {length} bytes more")
        target.write(block)
        length -= len(block)


def write_manifest(root: Path) -> list[dict[str, Any]]:
    """Write ``manifest.jsonl``: one line per input, without the positions of its clips; the latest one of each input.

    Returns:
        The lines.
    """
    lines = {line["source"]: line for _, line in read_lines(root)}
    rows = [{key: value for key, value in line.items() if key not in ("records", "bytes")} for line in lines.values()]
    write_atomically(root / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows
