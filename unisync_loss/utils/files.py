"""Atomic writes, fingerprints and kinds of files, CSV tables, JSON text, and functions given as ``module:function``."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
#: files of the package; ``weights`` has one folder per bundled checkpoint
ASSETS = _PACKAGE / "assets"
BUNDLED = _PACKAGE / "weights"


def load_hook(text: str, otherwise: str = "") -> Callable[..., Any]:
    """Import ``module:function``, from the installed packages or the working directory.

    Raises:
        ValueError: when there is no such thing.
    """
    module, _, function = text.partition(":")
    # `python -m` searches the working directory by itself, an installed script does not
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        hook = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        expected = f"{otherwise} or module:function" if otherwise else "module:function"
        raise ValueError(f"expected {expected}, got {text!r} ({error})") from error
    if not callable(hook):
        raise ValueError(f"{text}: expected a function, got {type(hook).__name__}")
    return hook


def read_table(path: str | os.PathLike[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header, in UTF-8 with or without byte order mark; other columns are kept.

    File names in another encoding keep their bytes, as ``os.fsdecode`` does it.

    Raises:
        ValueError: for another kind of file, a column that is missing, or a line that ends before it.
    """
    content = Path(path).read_bytes()
    if b"\0" in content:
        raise ValueError(f"{path}: expected a CSV file in UTF-8, got UTF-16 or no text")
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig", "surrogateescape"), newline=""))
    try:
        names, rows = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}: after line {reader.line_num}: expected a CSV file ({error})") from error
    if missing := [column for column in columns if column not in names]:
        found = f"{len(names)} other columns" if len(names) > 1 else repr(next(iter(names), ""))
        raise ValueError(
            f"{path}: expected columns {', '.join(columns)} separated by commas, missing {', '.join(missing)}, "
            f"got {found}"
        )
    for number, row in enumerate(rows):
        if short := [column for column in columns if row[column] is None]:
            raise ValueError(f"{path}: row {number + 1}: expected {', '.join(short)}, got a line that ends before it")
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for anything else.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON object, got something else ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file completely or not at all.

    Args:
        path: the file; its folder must exist.

    Yields:
        A temporary path with the same suffix in the same folder. It is renamed to ``path`` when the block ends, and
        removed when the block raises.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write ``content`` within :func:`atomic_path`; text as UTF-8, undecodable file names in it byte by byte."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


def to_json(value: object, indent: int | None = None) -> str:
    """JSON with non-ASCII letters unescaped; undecodable bytes of file names are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace").decode()


#: first bytes, in lower case, of what is often found under the name of weights or of a video, and how to mend it
_KINDS = {
    b"version https://git-lfs.github.com/": "a Git LFS pointer: run `git lfs pull` where it was cloned",
    b"<!doctype": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"#extm3u": "a playlist: give the files that it lists",
    b"ffconcat": "a playlist: give the files that it lists",
}


def recognise(content: bytes) -> str | None:
    """What a file with these first bytes is, if it is known not to be weights or a video."""
    if not content:
        return "an empty file"
    start = content.lstrip()[:64].lower()
    return next((kind for prefix, kind in _KINDS.items() if start.startswith(prefix)), None)


def recognise_file(path: str | os.PathLike[str]) -> str | None:
    """:func:`recognise` for a file on disk."""
    with open(path, "rb") as file:
        return recognise(file.read(256))


_END = 2**16  # bytes hashed at either end of a file


def fingerprint(path: Path) -> str:
    """Identify a recording by its size and both of its ends, so that a moved or copied file is recognised.

    Returns:
        24 hexadecimal digits of a SHA-256.
    """
    status = path.stat()
    return _fingerprint(path, status.st_size, status.st_mtime_ns)


@lru_cache(2**16)
def _fingerprint(path: Path, size: int, _written: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(max(0, size - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()[:24]
