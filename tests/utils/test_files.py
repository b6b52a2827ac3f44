"""Atomic writes, CSV tables, and functions by name."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from unisync_loss.utils.files import atomic_path, load_hook, read_table, write_atomically


def test_atomic_path_replaces_on_success(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".json"
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_keeps_the_earlier_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_undecodable_file_names_survive(tmp_path: Path) -> None:
    write_atomically(tmp_path / "list.txt", b"caf\xe9.mp4".decode(errors="surrogateescape"))
    assert (tmp_path / "list.txt").read_bytes() == b"caf\xe9.mp4"


def test_functions_are_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed script, unlike `python -m`, does not search it by itself."""
    (tmp_path / "hooks_of_mine.py").write_text("def speaker(path):\n    return 'someone'\n")
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    with pytest.raises(ValueError, match="expected module:function, got 'hooks_of_mine:speaker'"):
        load_hook("hooks_of_mine:speaker")
    monkeypatch.chdir(tmp_path)
    assert load_hook("hooks_of_mine:speaker")("a.mp4") == "someone"


def test_table_with_byte_order_mark_and_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes('\ufeffclip,offset,note\r\na/é.mp4,2,"x, y"\r\n'.encode())
    assert read_table(path, ("clip", "offset")) == [{"clip": "a/é.mp4", "offset": "2", "note": "x, y"}]
    path.write_bytes(b"clip\n\xff.mp4\n")  # a name that is not UTF-8
    assert os.fsencode(read_table(path, ("clip",))[0]["clip"]) == b"\xff.mp4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"clip;offset\na;1\n", "separated by commas, missing clip, offset, got 'clip;offset'"),
        ("clip,offset\na,1\n".encode("utf-16"), "UTF-16 or no text"),
        (b"clip,offset\na,1\nb\n", "row 2: expected offset, got a line that ends before it"),
        (b"", "missing clip, offset, got ''"),
        (b"name,offset\n", "missing clip, got 2 other columns"),
        (b'clip,offset\n"' + b"a" * 200_000 + b'",1\n', "after line 1: expected a CSV file"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{re.escape(message)}"):
        read_table(path, ("clip", "offset"))
