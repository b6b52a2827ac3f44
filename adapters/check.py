"""Checks whether the lines of ``patches/`` still fit a generator's repository, and writes them into it.

``python -m unisync_loss.adapters.check NAME FOLDER [--apply]``

A file of ``patches/`` is a unified diff in which the lines of the repository are given by their hashes, so that none of
its code is repeated here; ``git apply`` cannot read it. The first line has the repository, its commit and its licence.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["main"]

PATCHES = Path(__file__).parent / "patches"
_HASH = "sha256:"


@dataclass
class Hunk:
    """One change of a patch.

    Attributes:
        file: path in the repository.
        start: number of its first line at the documented commit, from 1.
        entries: sign of each line (`` `` kept, ``-`` removed, ``+`` added) with its hash or, if added, its text.
    """

    file: str
    start: int
    entries: list[tuple[str, str]] = field(default_factory=list)

    @property
    def old(self) -> list[str]:
        """Hashes of the lines to be found."""
        return [text for sign, text in self.entries if sign != "+"]

    @property
    def new(self) -> list[str]:
        """Lines as they are afterwards; the kept ones as hashes."""
        return [text for sign, text in self.entries if sign != "-"]

    def find(self, lines: Sequence[str], wanted: Sequence[str]) -> int | None:
        """Index in ``lines`` at which ``wanted`` stands, the nearest to the documented place; None if nowhere."""
        starts = range(len(lines) - len(wanted) + 1)
        found = [start for start in starts if all(map(_same, wanted, lines[start:]))]
        return min(found, key=lambda start: abs(start - (self.start - 1)), default=None)

    def replaced(self, lines: Sequence[str], start: int, ending: str) -> list[str]:
        """All lines, with the change made at ``start``."""
        result, place = list(lines[:start]), start
        for sign, text in self.entries:
            if sign == "+":
                result.append(text + ending)
                continue
            if sign == " ":
                result.append(lines[place])
            place += 1
        return result + list(lines[place:])


def read_patch(text: str) -> tuple[str, list[Hunk]]:
    """Title and changes of a patch."""
    title, *rest = text.splitlines()
    hunks: list[Hunk] = []
    file = ""
    for line in rest:
        if line.startswith("--- a/"):
            file = line.removeprefix("--- a/")
        elif match := re.match(r"@@ -(\d+)", line):
            hunks.append(Hunk(file, int(match[1])))
        elif not line.startswith("+++ b/"):
            hunks[-1].entries.append((line[0], line[1:]))
    return title, hunks


def examine(hunk: Hunk, folder: Path) -> tuple[bool, str]:
    """Whether a change can be made or is made already, and a sentence for the user."""
    path = folder / hunk.file
    if not path.is_file():
        return False, "no such file"
    lines = _read(path)
    place = hunk.find(lines, hunk.old)
    if place is not None:
        return True, "as documented" if place == hunk.start - 1 else f"moved to line {place + 1}"
    if hunk.find(lines, hunk.new) is not None:
        return True, "applied already"
    missing = [
        hunk.start + number for number, wanted in enumerate(hunk.old) if not any(_same(wanted, line) for line in lines)
    ]
    found = f"line {', '.join(map(str, missing))} of that commit is gone" if missing else "its lines are apart"
    return False, f"changed ({found}): edit it by hand"


def apply(hunks: Sequence[Hunk], folder: Path) -> None:
    """Make all changes that are not made yet."""
    for hunk in hunks:
        path = folder / hunk.file
        lines = _read(path)
        place = hunk.find(lines, hunk.old)
        if place is not None:
            ending = "\r\n" if lines[place].endswith("\r\n") else "\n"
            path.write_bytes("".join(hunk.replaced(lines, place, ending)).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns 0 if every change fits."""
    names = {path.stem: path for path in sorted(PATCHES.iterdir())}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=names)
    parser.add_argument("folder", type=Path, help="a checkout of the generator's repository")
    parser.add_argument("--apply", action="store_true", help="make the changes, if all of them fit")
    options = parser.parse_args(arguments)
    title, hunks = read_patch(names[options.name].read_text(encoding="utf-8"))
    print(title)
    results = [examine(hunk, options.folder) for hunk in hunks]
    for hunk, (_, found) in zip(hunks, results, strict=True):
        print(f"{hunk.file}:{hunk.start}: {found}")
    fits = all(fit for fit, _ in results)
    if options.apply:
        if fits:
            apply(hunks, options.folder)
        print("all changes are made" if fits else "no change was made")
    return 0 if fits else 1


def _read(path: Path) -> list[str]:
    """Lines with their endings as they are."""
    return path.read_bytes().decode().splitlines(keepends=True)


def _same(wanted: str, line: str) -> bool:
    line = line.rstrip()
    return wanted == (line_hash(line) if wanted.startswith(_HASH) else line)


def line_hash(line: str) -> str:
    """Stands for a line of the repository; spaces at its end do not matter."""
    return _HASH + hashlib.sha256(line.rstrip().encode()).hexdigest()[:16]


def hash_lines(diff: str) -> str:
    """A file of ``patches/`` from its title and the output of ``git diff -U1``."""
    title, *rest = diff.splitlines()
    hashed = (
        line[0] + line_hash(line[1:]) if line[:1] in {" ", "-"} and not line.startswith("--- a/") else line
        for line in rest
    )
    return "\n".join([title, *hashed]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
