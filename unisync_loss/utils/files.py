"""Files written whole or not at all, and known again by what is in them."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

#: what the package carries, one folder a name: experts, and the HuBERT that they hear through
_PACKAGE = Path(__file__).resolve().parents[1]
ASSETS = _PACKAGE / "assets"
BUNDLED = _PACKAGE / "weights"


def load_hook(text: str, otherwise: str = "") -> Callable[..., Any]:
    """Import ``module:function``.

    Raises:
        ValueError: when there is no such thing.
    """
    module, _, function = text.partition(":")
    try:
        hook = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        expected = f"{otherwise} or module:function" if otherwise else "module:function"
        raise ValueError(f"expected {expected}, got {text!r} ({error})") from error
    if not callable(hook):
        raise ValueError(f"{text}: expected a function, got {type(hook).__name__}")
    return hook


_END = 2**16  # bytes at either end of a file that tell it from others


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name in its folder, then rename it; text as UTF-8, names of files as they are."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_json(value: object, indent: int | None = None) -> str:
    """JSON for people, letters of all scripts as they are; what is no text in a file's name becomes an escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace").decode()


def fingerprint(path: Path) -> str:
    """What tells a recording from others, wherever it lies and whenever it was copied: its size and both its ends.

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
