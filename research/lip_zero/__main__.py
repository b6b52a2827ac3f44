"""Print the reference offset of each corpus: ``python -m research.lip_zero DATA``, after ``unisync align DATA``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from research.lip_zero.zero import read_rises, settle_zeros
from unisync_loss.data import list_clips
from unisync_loss.utils.files import to_json, write_atomically


def main(
    data: Annotated[Path, typer.Argument(help="Store or folder that `unisync align` has written align.jsonl into.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Measure the reference offset of each corpus: the audio rise at the moment closed lips part."""
    try:
        zeros = measure(data)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"lip_zero: {error}")
    if json_file:
        write_atomically(json_file, to_json(zeros, indent=1))
    typer.echo(to_lines(zeros))


def measure(root: Path) -> dict[str, dict[str, Any]]:
    """Reference offset of each corpus of a folder or store.

    Args:
        root: folder or store with the ``align.jsonl`` of ``unisync align``.

    Returns:
        By corpus, see :func:`research.lip_zero.zero.settle_zeros`.

    Raises:
        ValueError: when ``align.jsonl`` lacks a clip, or no corpus has a clear zero.
        FileNotFoundError: without ``align.jsonl``.
        ImportError: without MediaPipe, for clips that are not in a store.
    """
    log = root / "align.jsonl"
    if not log.is_file():
        raise FileNotFoundError(f"expected {log}, found none: run `unisync align {root}` first")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    estimates = {row["clip"]: row["estimate"] for row in rows}
    entries = list_clips(root, ignore_offsets=True)
    missing = [entry.name for entry in entries if entry.name not in estimates]
    if missing:
        raise ValueError(f"{log}: expected a row per clip, got none for {missing[0]}: run `unisync align {root}` again")
    found = [estimates[entry.name] for entry in entries]
    return settle_zeros(read_rises(entries, found, lambda line: typer.echo(line, err=True)))


def to_lines(zeros: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the result of :func:`measure` for printing, one line per corpus."""
    lines = []
    for corpus, row in zeros.items():
        measured = "" if row["interval"] is None else " [{:+.2f}, {:+.2f}]".format(*row["interval"])
        lines.append(
            f"{corpus}: in sync at an estimate of {row['zero']:+.2f} frames, by {row['basis']}; "
            f"its own{measured} from {row['partings']} partings of lips in {row['clips']} clips"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
