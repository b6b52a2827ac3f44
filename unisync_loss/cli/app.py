"""The typer application, shared options, and output of the commands."""

from __future__ import annotations

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
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
Seed = Annotated[int, typer.Option(help="Seed of the random generators.")]


def log(line: str) -> None:
    """Print a line of progress on stderr."""
    typer.echo(line, err=True)


def write_json(path: Path, report: Mapping[str, object]) -> None:
    """Write a report as JSON."""
    write_text(path, to_json(report, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file, with its folder where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
