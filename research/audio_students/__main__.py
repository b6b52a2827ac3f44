"""Command ``python -m research.audio_students``: teach a small audio network the embeddings of an expert on Whisper."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer

from research.audio_students.training import StudentConfig, train_student


class Kind(str, Enum):
    """Choices of ``--student``."""

    mel = "mel"
    hubert = "hubert"


def main(
    teacher: Annotated[str, typer.Option(help="Expert on whisper: a released name, a folder or OWNER/NAME.")],
    student: Annotated[Kind, typer.Option(help="Features of the student.")],
    data: Annotated[
        list[Path],
        typer.Option(help="Folder of <corpus>/<speaker>/<file> of audio or video, or with manifest.csv, or a store."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of decoded speech and the teacher's targets; default OUT/cache.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Expert to start from: its audio tower, and its HuBERT (mel-rgb, hubert-rgb).")
    ] = None,
    hubert: Annotated[
        str | None,
        typer.Option(help="HuBERT to start from instead, such as that of from_whisper."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training.")] = 4000,
    regression_weight: Annotated[float, typer.Option(min=0, help="Weight of the states that a HuBERT predicts.")] = 0.2,
    batch_seconds: Annotated[float, typer.Option(min=1, help="Seconds of speech per batch.")] = 32.0,
    learning_rate: Annotated[float, typer.Option(help="Peak of the schedule.")] = 1e-3,
    val_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 500,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; default: cuda if available.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
) -> None:
    """Train an audio tower on mel, or a small HuBERT with its audio tower; OUT/expert is the teacher with it."""
    try:
        config = StudentConfig(
            teacher=teacher,
            student=student.value,
            data=tuple(str(folder) for folder in data),
            out=str(out),
            cache=str(cache) if cache else None,
            seed=seed,
            init=init,
            hubert=hubert,
            steps=steps,
            regression_weight=regression_weight,
            batch_seconds=batch_seconds,
            learning_rate=learning_rate,
            val_every=val_every,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )
        train_student(config, resume=resume, log=lambda line: typer.echo(line, err=True))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"audio_students: {error}")
    typer.echo(f"expert: {out / 'expert'}")


if __name__ == "__main__":
    typer.run(main)
