"""Command train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unisync_loss.cli.app import Json, app, log, write_json


@app.command()
def train(
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Any setting of the run.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Store, STORE/train, folder of <corpus>/<speaker>/<clip>.mp4; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    val: Annotated[Path | None, typer.Option(help="The same of other speakers, to validate on.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file, such as the config.yaml of a run.")] = None,
    preset: Annotated[str | None, typer.Option(help="fast, or paper: the paper's recipe to the letter.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio representation: mel or hubert.")] = None,
    visual: Annotated[str | None, typer.Option(help="Visual one: rgb, parsing, landmarks or 3dmm.")] = None,
    hubert: Annotated[
        str | None, typer.Option(help="HuBERT to listen through: owner/name[@revision], or folder.")
    ] = None,
    init: Annotated[list[str] | None, typer.Option(help="Expert to start from: name, folder or owner/name.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the clip cache; default OUT/cache.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT, with its settings.")] = False,
    overfit: Annotated[int | None, typer.Option(help="Self-test: learn so many windows by heart, such as 64.")] = None,
    shuffle_labels: Annotated[bool, typer.Option("--shuffle-labels", help="Self-test: nothing may be learnt.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn.")] = None,
    json_file: Json = None,
) -> None:
    """Train an expert for any pair of representations; several processes by torchrun -m unisync_loss.cli train."""
    from unisync_loss.training.config import resolve
    from unisync_loss.training.sanity_checks import overfit as learn_by_heart
    from unisync_loss.training.sanity_checks import shuffled
    from unisync_loss.training.trainer import train as run

    saved = out / "config.yaml" if out is not None and resume and (out / "config.yaml").is_file() else None
    given: dict[str, Any] = {
        **{name: str(path) if path else None for name, path in {"out": out, "val": val, "cache": cache}.items()},
        **{"preset": preset, "audio": audio, "visual": visual, "hubert": hubert, "init": init, "seed": seed},
        **{"data": [str(folder) for folder in data] if data else None, "overfit": overfit},
    }
    settled, expert = resolve(given, config or saved, settings or [])
    if settled.overfit or shuffle_labels:
        report = (learn_by_heart if settled.overfit else shuffled)(settled, expert, log)
        if json_file:
            write_json(json_file, report)
        typer.echo("  ".join(f"{key} {value}" for key, value in report.items()))
        return
    run(settled, expert, resume=resume, log=log)
    left = [str(Path(settled.out) / name) for name in ("best", "last") if (Path(settled.out) / name).is_dir()]
    typer.echo(f"checkpoints: {', '.join(left) or 'none yet'}")
