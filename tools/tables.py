"""Write the tables of figures in the documentation from their files, ``docs/tables/NAME.csv``.

    python -m tools.tables

A table stands between ``<!-- docs/tables/NAME.csv -->`` and the next empty line. The file has its cells as they are
shown, so that a figure keeps its interval and its unit. Those of the released experts are written by ``tools.cards``.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from unisync_loss.utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
_MARKED = re.compile(r"<!-- (docs/tables/[\w-]+\.csv) -->\n((?:\|.*\n)*)")


def render(root: Path) -> dict[Path, str]:
    """Text of every document, with its tables from their files.

    Args:
        root: of the repository.

    Raises:
        ValueError: for a missing file, one without rows, with rows of different lengths, or a bar in a cell.
    """
    found = {}
    for path in (root / name for name in DOCUMENTS):
        text = path.read_text(encoding="utf-8")
        found[path] = _MARKED.sub(lambda match: f"<!-- {match[1]} -->\n{markdown(root / match[1])}", text)
    return found


def markdown(path: Path) -> str:
    """Markdown of a table.

    Raises:
        ValueError: see :func:`render`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected the file of a table, got none")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        raise ValueError(f"{path}: expected a header and rows of the same length, got {[len(row) for row in rows]}")
    if any("|" in cell for row in rows for cell in row):
        raise ValueError(f"{path}: expected cells without |")
    head, *body = ["|" + "".join(f" {cell} |" if cell else " |" for cell in row) + "\n" for row in rows]
    return f"{head}{'|---' * len(rows[0])}|\n{''.join(body)}"


def main() -> None:
    """Write the documents that differ."""
    for path, text in render(ROOT).items():
        if path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
