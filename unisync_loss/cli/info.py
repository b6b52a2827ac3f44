"""Commands info, download, push, export and demo."""

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
        str | None,
        typer.Argument(help="Released name, checkpoint folder, or owner/name[@revision]; default: all."),
    ] = None,
    json_file: Json = None,
) -> None:
    """List the bundled checkpoints, or show the configuration of one."""
    from unisync_loss.models.pretrained import load_expert

    if model is None:
        report: dict[str, Any] = {"version": __version__, **_released()}
    else:
        expert = load_expert(model)
        count = sum(parameter.numel() for parameter in expert.parameters())
        report = {"model": model, "parameters": count, **asdict(expert.config)}
    if json_file:
        write_json(json_file, report)
    typer.echo(to_json(report, indent=1), nl=False)


def _released() -> dict[str, Any]:
    """Experts by name, and the towers that they share."""
    from unisync_loss.models.released import list_pretrained

    pretrained, towers = {}, {}
    for info in list_pretrained().values():
        names = {f"{side}_tower": tower.name for side, tower in info.towers.items()}
        pretrained[info.name] = {"parameters": info.parameters, "bytes": info.size, **names}
        for tower in info.towers.values():
            towers[tower.name] = {"parameters": tower.parameters, "bytes": tower.size}
    return {"pretrained": pretrained, "towers": dict(sorted(towers.items()))}


@app.command()
def download(
    names: Annotated[list[str], typer.Argument(help="As for info: experts that will be used without a connection.")],
) -> None:
    """Fetch experts and their audio models into the Hub's cache, and check that they load."""
    import torch

    from unisync_loss.models.pretrained import load_expert
    from unisync_loss.representations.encoder_input import EncoderInput

    for name in names:
        log(f"{name}: loading")
        expert = load_expert(name)
        lines = [name]
        if isinstance(expert.audio_input, EncoderInput):
            expert.audio_input.load_encoder(torch.device("cpu"))
            lines.append(f"{expert.config.audio_model} at {expert.config.audio_revision[:12]}")
        typer.echo(f"{' with '.join(lines)}: on this disk")


@app.command()
def push(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, such as RUN/best, or released name.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    upload: Annotated[bool, typer.Option("--upload", help="Upload, too; default: check and list only.")] = False,
    private: Annotated[bool, typer.Option("--private", help="If the repository is new, make it private.")] = False,
) -> None:
    """Publish an expert as a repository of the Hub, from where from_pretrained("OWNER/NAME@COMMIT") loads it."""
    import tempfile

    from unisync_loss.models.publishing import check_repository, prepare_repository, push_folder

    check_repository(repo)
    with tempfile.TemporaryDirectory(prefix="unisync-push-") as folder:
        for name, size in prepare_repository(source, folder).items():
            typer.echo(f"{name}  {size:,} bytes")
        if not upload:
            typer.echo(f"dry run: nothing was uploaded to {repo}; add --upload")
            return
        log(f"{repo}: uploading")
        typer.echo(f"{repo}@{push_folder(folder, repo, private=private)}")


@app.command("export")
def export(
    model: Annotated[str, typer.Argument(help="Released name, checkpoint folder, or owner/name[@revision].")],
    out: Annotated[Path, typer.Argument(help="Folder for the graphs and config.json.")],
    file_format: Annotated[str, typer.Option("--format", help="onnx, or pt2 of torch.export.")] = "onnx",
) -> None:
    """Write the towers of an expert as graphs that run without this package."""
    from unisync_loss.models.export import export_expert
    from unisync_loss.models.pretrained import load_expert

    for path in export_expert(load_expert(model), out, file_format, log=log):
        typer.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def demo(
    video: Annotated[Path | None, typer.Option(help="Clip of one face, 3.5 s or more; default: a drawn face.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and its files.")] = Path("out/demo"),
    model: Model = "whisper-rgb-robust",
    first_steps: Annotated[int, typer.Option(min=1, help="Steps of reconstruction alone, for both.")] = 400,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training after these.")] = 200,
    weight: Annotated[float, typer.Option(min=0, help="Weight of the sync loss beside the L1.")] = 0.03,
    seed: Seed = 0,
) -> None:
    """Train a small generator without and with the loss, and report the difference in lips and picture."""
    from unisync_loss.demo.results import DemoSettings
    from unisync_loss.demo.run import DEFAULT_CLIP, run_demo
    from unisync_loss.models.pretrained import load_expert

    settings = DemoSettings(first_steps, steps, weight, seed)
    result = run_demo(video or DEFAULT_CLIP, out, load_expert(model), settings, log=log)
    typer.echo(result.table())
    typer.echo(f"report: {out / 'report.html'}")
