"""Commands info and demo."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from unisync_loss import __version__
from unisync_loss.cli.app import Json, Model, Seed, app, log, write_json
from unisync_loss.utils.files import to_json


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(help="Released name, folder or owner/name; none lists what is bundled.")
    ] = None,
    json_file: Json = None,
) -> None:
    """List the bundled checkpoints, or show one's input contract."""
    from unisync_loss.models.pretrained import list_pretrained, load_expert

    if model is None:
        rows = {name: {"parameters": row.parameters, "bytes": row.size} for name, row in list_pretrained().items()}
        report: dict[str, Any] = {"version": __version__, "pretrained": rows}
    else:
        expert = load_expert(model)
        count = sum(parameter.numel() for parameter in expert.parameters())
        report = {"model": model, "parameters": count, **asdict(expert.config)}
    if json_file:
        write_json(json_file, report)
    typer.echo(to_json(report, indent=1), nl=False)


@app.command()
def demo(
    video: Annotated[Path | None, typer.Option(help="A clip of one face; default: the embedded drawn face.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("out/demo"),
    model: Model = "mel-rgb",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a training; default: three minutes.")] = None,
    seed: Seed = 0,
) -> None:
    """Train a small generator with and without the loss, and show what it learnt."""
    from unisync_loss.demo.run import run_demo
    from unisync_loss.models.pretrained import load_expert

    result = run_demo(video, out, load_expert(model), seed=seed, steps=steps, log=log)
    typer.echo(result.table())
    typer.echo(f"report: {out / 'report.html'}")
