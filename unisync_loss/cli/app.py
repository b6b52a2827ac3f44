"""The typer application, shared options, and output of the commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from unisync_loss.utils.files import to_json, write_atomically

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lip-sync loss: experts, their training, and measures of lip sync.",
)
#: caused by input; any other exception is a defect of the program and keeps its traceback
INPUT_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)

#: the most accurate released expert
BEST_MODEL = "whisper-rgb"
Model = Annotated[str, typer.Option(help="Released name, checkpoint folder, or owner/name[@revision] on the Hub.")]


def check_output(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before any work."""
    if path is None:
        return None
    if path.is_dir():
        raise typer.BadParameter(f"expected a file, got the folder {path}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise typer.BadParameter(f"expected a file that can be written, got {path}")
    return path


Json = Annotated[Path | None, typer.Option("--json", callback=check_output, help="Write the result to this file.")]
Csv = Annotated[Path | None, typer.Option("--csv", callback=check_output, help="Write one row per face to this file.")]
Seed = Annotated[int, typer.Option(help="Seed of the random generators.")]


def log(line: str) -> None:
    """Print a line of progress on stderr; one that cannot be printed must not cost the file that it is about."""
    with contextlib.suppress(OSError):
        typer.echo(line, err=True)


def write_json(path: Path, report: Mapping[str, object]) -> None:
    """Write a report as JSON."""
    write_text(path, to_json(report, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file, with its folder where that is missing: atomically, but into a device or pipe as it is.

    Raises:
        OSError: when it cannot be written; the text has been printed then, so that no result is lost.
    """
    try:
        if path.absolute().is_relative_to("/dev") or (path.exists() and not path.is_file()):
            with path.open("a", encoding="utf-8", errors="surrogateescape") as stream:
                stream.write(text)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path.resolve(), text)  # the file that a link points to
    except OSError:
        typer.echo(text)
        raise
