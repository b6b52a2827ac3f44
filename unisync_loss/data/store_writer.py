"""Writing a clip store: a part per input, parts gathered into shards in order; each counts once it is whole.

An input's clips lie together in a shard, and a shard is closed after the input that fills it. So the shards are the
same however many workers made the parts and however often the work was killed.
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
from unisync_loss.utils.files import write_atomically

SHARD_BYTES = 256 * 2**20  # from which on a shard is closed
_BLOCK = tarfile.BLOCKSIZE


def open_store(root: Path, settings: dict[str, Any]) -> None:
    """Make a store, or check that one was made in the same way.

    Raises:
        ValueError: for a folder that holds something else, or a store made with other settings.
    """
    if is_store(root):
        check_store(root, settings)
    elif root.is_dir() and any(root.iterdir()):
        raise ValueError(f"{root}: expected an empty folder or a store, got a folder with other things in it")
    (root / "shards").mkdir(parents=True, exist_ok=True)
    write_atomically(root / "store.json", json.dumps({"format": FORMAT, **settings}) + "\n")


def check_store(root: Path, settings: dict[str, Any]) -> None:
    """Check that a store was made in a way.

    Raises:
        ValueError: for one made with other settings.
    """
    made, settings = json.loads((root / "store.json").read_text(encoding="utf-8")), {"format": FORMAT, **settings}
    if made != settings:
        raise ValueError(f"{root}: expected a store made with {settings}, got one made with {made}")


class StagedInput:
    """The clips of one input as a run of tar members, written under a temporary name."""

    def __init__(self, parts: Path, name: str) -> None:
        """Begin ``parts/name``."""
        self._tar_path, self._line_path = parts / f"{name}.tar", parts / f"{name}.json"
        self._temporary = parts / f".{name}.{os.getpid()}.tar"
        self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)
        self.records: list[dict[str, Any]] = []

    def add(self, facts: dict[str, Any], members: dict[str, bytes]) -> None:
        """Add a clip: ``facts`` with its key, and its files but the ``.json``."""
        places = {}
        for member in MEMBERS:
            data = (json.dumps(facts) + "\n").encode() if member == "json" else members[member]
            info = tarfile.TarInfo(f"{facts['key']}.{member}")
            info.size = len(data)
            self._tar.addfile(info, BytesIO(data))
            places[member] = (self._tar.offset - -(-len(data) // _BLOCK) * _BLOCK, len(data))
        self.records.append({**facts, "places": places})

    def finish(self, line: dict[str, Any]) -> None:
        """Put the part in its place, with what the manifest says of the input."""
        length = self._tar.offset
        self._tar.close()
        self._temporary.replace(self._tar_path)
        write_atomically(self._line_path, json.dumps({**line, "bytes": (0, length), "records": self.records}))

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._tar.close()
        self._temporary.unlink(missing_ok=True)


def read_staged(parts: Path, name: str) -> dict[str, Any] | None:
    """What a finished part says of its input; None when there is none."""
    try:
        return json.loads((parts / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


class ShardWriter:
    """Appends inputs to shards ``<prefix>NNNNNN``, in the order given."""

    def __init__(self, root: Path, prefix: str = "", shard_bytes: int = SHARD_BYTES) -> None:
        """Go on after the last whole shard; what a killed run left unfinished is removed."""
        self._shards, self._prefix, self._limit = root / "shards", prefix, shard_bytes
        whole = [path.stem for path in self._shards.glob("*.jsonl") if path.stem[:-6] == prefix]
        self._number = max((int(stem[-6:]) + 1 for stem in whole), default=0)
        for path in (*self._shards.glob(f"{prefix}*.tar"), *self._shards.glob(f".{prefix}*")):
            if path.stem.lstrip(".")[: len(prefix) + 6] not in whole and path.stem.lstrip(".")[:-6] == prefix:
                path.unlink()
        self._file: BinaryIO | None = None
        self._lines: list[dict[str, Any]] = []
        self._leftover: list[Path] = []

    def append(self, line: dict[str, Any], tar: Path | None, leftover: Iterable[Path] = ()) -> None:
        """Add an input.

        Args:
            line: of the manifest, with ``records`` and the ``bytes`` of ``tar`` that hold them.
            tar: where the clips lie; None when there are none.
            leftover: files that are of no use once the shard is whole.
        """
        self._leftover += leftover
        if self._file is None:
            self._file = self._temporary.open("wb")
        base = self._file.tell()
        first, length = line["bytes"]
        if tar is not None and length:
            with tar.open("rb") as part:
                part.seek(first)
                _copy(part, self._file, length, tar)
        for record in line["records"]:
            moved = {member: (place[0] - first + base, place[1]) for member, place in record["places"].items()}
            record["places"] = moved
        self._lines.append({**line, "bytes": (base, length)})
        if self._file.tell() >= self._limit:
            self.close()

    def close(self) -> None:
        """End the shard that is being written, if there is one."""
        if self._file is None:
            return
        stem = f"{self._prefix}{self._number:06d}"
        self._file.write(bytes(2 * _BLOCK))  # the end of a tar file
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._shards / f"{stem}.tar")
        write_atomically(self._shards / f"{stem}.jsonl", "".join(json.dumps(line) + "\n" for line in self._lines))
        for path in self._leftover:
            path.unlink(missing_ok=True)
        self._number += 1
        self._file, self._lines, self._leftover = None, [], []

    def abandon(self) -> None:
        """Leave the shard that is being written to a later run; the parts that it was made of are there still."""
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
        block = source.read(min(length, 2**20))
        if not block:
            raise ValueError(f"{name}: expected {length} bytes more")
        target.write(block)
        length -= len(block)


def write_manifest(root: Path) -> list[dict[str, Any]]:
    """Write ``manifest.jsonl``: one line an input, without the places of its clips; the latest where there are several.

    Returns:
        The lines.
    """
    lines = {line["source"]: line for _, line in read_lines(root)}
    rows = [{key: value for key, value in line.items() if key not in ("records", "bytes")} for line in lines.values()]
    write_atomically(root / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows
