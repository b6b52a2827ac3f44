"""Command ``python -m research.hubert_small``: pretrain a small HuBERT from speech alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from research.hubert_small.masked_prediction import HubertSize
from research.hubert_small.pretrain import PretrainConfig, pretrain


def main(
    data: Annotated[
        list[Path],
        typer.Option(help="Folder of <corpus>/<speaker>/<file> of audio or video, or with manifest.csv, or a store."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of the decoded speech; default OUT/cache.")] = None,
    hidden: Annotated[int, typer.Option(min=16, help="Width of the features.")] = 256,
    layers: Annotated[int, typer.Option(min=2, help="Number of transformer layers.")] = 8,
    channels: Annotated[str, typer.Option(help="Channels of the seven convolutions.")] = "32,64,96,128,192,256,256",
    units: Annotated[tuple[int, int], typer.Option(min=2, max=32767, help="Units of rounds 1 and 2.")] = (100, 500),
    steps: Annotated[tuple[int, int], typer.Option(min=1, help="Steps of rounds 1 and 2.")] = (
        8000,
        16000,
    ),
    ear: Annotated[
        str | None, typer.Option(help="Mel expert whose audio embeddings are distilled in a third round.")
    ] = None,
    ear_steps: Annotated[int, typer.Option(min=1, help="Steps of the third round.")] = 4000,
    batch_seconds: Annotated[float, typer.Option(min=1, help="Seconds of speech per batch.")] = 320.0,
    learning_rate: Annotated[float, typer.Option(help="Peak of the schedule.")] = 1e-3,
    val_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 500,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; default: cuda if available.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
) -> None:
    """Train a small HuBERT on speech in two or three rounds; OUT/hubert is the model."""
    try:
        widths = tuple(int(text) for text in channels.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"expected seven whole numbers, got {channels!r}", param_hint="--channels") from error
    try:
        config = PretrainConfig(
            data=tuple(str(folder) for folder in data),
            out=str(out),
            cache=str(cache) if cache else None,
            seed=seed,
            size=HubertSize(hidden=hidden, layers=layers, channels=widths),
            units=units,
            steps=steps,
            ear=ear,
            ear_steps=ear_steps,
            batch_seconds=batch_seconds,
            learning_rate=learning_rate,
            val_every=val_every,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )
        pretrain(config, resume=resume, log=lambda line: typer.echo(line, err=True))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"hubert_small: {error}")
    typer.echo(f"HuBERT: {out / 'hubert'}")


if __name__ == "__main__":
    typer.run(main)
