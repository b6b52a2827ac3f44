"""The typer application, the options that commands share, and how commands write files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unisync_loss.utils.files import to_json, write_atomically

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lip-sync expert, loss and measures.",
)
#: what a user's input can cause; anything else is our defect and keeps its traceback
INPUT_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)

Model = Annotated[str, typer.Option(help="Released name, checkpoint folder, or owner/name[@revision] on the Hub.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.")]


def log(line: str) -> None:
    """Print a line of progress at once."""
    typer.echo(line, err=True)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON."""
    write_text(path, to_json(report, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folder for it where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
