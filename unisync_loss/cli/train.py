"""Commands train and check-training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisync_loss.cli.app import Json, app, log, write_json

if TYPE_CHECKING:
    from unisync_loss.config import UniSyncConfig
    from unisync_loss.training.config import TrainConfig

Settings = Annotated[list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE…", help="Any setting of the run.")]
Data = Annotated[
    list[Path] | None, typer.Option(help="Store, STORE/train, folder of <corpus>/<speaker>/<clip>.mp4; repeatable.")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run.")]
Config = Annotated[Path | None, typer.Option(help="YAML file, such as the config.yaml of a run.")]
Preset = Annotated[str | None, typer.Option(help="fast, or paper: recipe and network of the paper.")]
Audio = Annotated[str | None, typer.Option(help="Audio representation: mel, hubert or whisper.")]
Visual = Annotated[str | None, typer.Option(help="Visual representation: rgb, parsing, landmarks or 3dmm.")]
AudioModel = Annotated[
    str | None,
    typer.Option(
        help="HuBERT or Whisper of the audio features: owner/name, owner/name@revision, bundled name or folder."
    ),
]
Init = Annotated[list[str] | None, typer.Option(help="Expert to start from: name, folder or owner/name; repeatable.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of the clip cache; default OUT/cache.")]
Seed = Annotated[int | None, typer.Option(help="Seed of all random draws.")]


@app.command()
def train(
    settings: Settings = None,
    data: Data = None,
    out: Out = None,
    val: Annotated[Path | None, typer.Option(help="The same of other speakers, for validation.")] = None,
    config: Config = None,
    preset: Preset = None,
    audio: Audio = None,
    visual: Visual = None,
    audio_model: AudioModel = None,
    init: Init = None,
    cache: Cache = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in OUT, with its settings.")] = False,
    seed: Seed = None,
) -> None:
    """Train an expert for any pair of representations; several processes by torchrun -m unisync_loss.cli train."""
    from unisync_loss.training.trainer import train as run

    saved = out / "config.yaml" if out is not None and resume and (out / "config.yaml").is_file() else None
    options = {
        "audio": audio,
        "visual": visual,
        "audio_model": audio_model,
        "init": init,
        "preset": preset,
        "seed": seed,
    }
    resolved, expert = _resolve(config or saved, settings, data=data, out=out, val=val, cache=cache, options=options)
    run(resolved, expert, resume=resume, log=log)
    folders = [str(Path(resolved.run.out) / name) for name in ("best", "last")]
    saved_folders = [folder for folder in folders if Path(folder).is_dir()]
    typer.echo(f"checkpoints: {', '.join(saved_folders) or 'none yet'}")


@app.command()
def check_training(
    settings: Settings = None,
    data: Data = None,
    out: Out = None,
    overfit: Annotated[int | None, typer.Option(help="Number of windows to overfit, such as 64.")] = None,
    shuffle_labels: Annotated[
        bool, typer.Option("--shuffle-labels", help="Mismatch audio and video: nothing may be learnt.")
    ] = False,
    config: Config = None,
    preset: Preset = None,
    audio: Audio = None,
    visual: Visual = None,
    audio_model: AudioModel = None,
    init: Init = None,
    cache: Cache = None,
    seed: Seed = None,
    json_file: Json = None,
) -> None:
    """Check data and trainer in minutes: a few windows must be learnt, shuffled labels must not."""
    from unisync_loss.training import sanity_checks

    if bool(overfit) == shuffle_labels:
        raise ValueError("expected one of --overfit N and --shuffle-labels")
    options = {
        "audio": audio,
        "visual": visual,
        "audio_model": audio_model,
        "init": init,
        "preset": preset,
        "seed": seed,
    }
    resolved, expert = _resolve(config, settings, data=data, out=out, val=None, cache=cache, options=options)
    if overfit:
        report = sanity_checks.overfit(resolved, expert, overfit, log)
    else:
        report = sanity_checks.shuffled(resolved, expert, log)
    if json_file:
        write_json(json_file, report)
    typer.echo("  ".join(f"{key} {value}" for key, value in report.items()))


def _resolve(
    file: Path | None,
    settings: list[str] | None,
    *,
    data: list[Path] | None,
    out: Path | None,
    val: Path | None,
    cache: Path | None,
    options: dict[str, Any],
) -> tuple[TrainConfig, UniSyncConfig]:
    from unisync_loss.training.settings import resolve

    paths = {name: str(path) if path else None for name, path in {"out": out, "val": val, "cache": cache}.items()}
    folders = [str(folder) for folder in data] if data else None
    return resolve({**options, **paths, "folders": folders}, file, settings or [])
