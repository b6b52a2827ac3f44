"""Atomic writes, fingerprints of files, JSON text, and functions given as ``module:function``."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
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
