"""Commands on training data: prepare, features, doctor, align."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from unisync_loss.cli.app import BEST_MODEL, INPUT_ERRORS, Json, Model, app, log, write_json
from unisync_loss.utils.progress import printable


@app.command()
def prepare(
    sources: Annotated[list[Path], typer.Argument(help="Video files, folders, and stores whose clips are copied.")],
    out: Annotated[Path, typer.Option(help="The clip store: a new or empty folder, or a store to continue.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = max(1, (os.cpu_count() or 1)),
    shard: Annotated[str, typer.Option(help="Do one shard of the inputs: 0/8 … 7/8, on as many machines.")] = "0/1",
    speakers: Annotated[
        str | None, typer.Option(help="CSV with columns source,speaker, or module:function of a path.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="module:function of frames and waveform that returns arrays: 3dmm, parsing, …")
    ] = None,
    json_file: Json = None,
) -> None:
    """Turn videos into training clips: 25 fps and 16 kHz by time stamps, face crops, face meshes; restartable."""
    from unisync_loss.data.preparation import prepare as run

    share = re.fullmatch(r"(\d+)/(\d+)", shard)
    if share is None:
        raise typer.BadParameter(f"expected i/n, got {shard!r}", param_hint="--shard")
    places = int(share[1]), int(share[2])
    report = run(sources, out, speakers=speakers, provider=features, shard=places, workers=workers, log=log)
    if json_file:
        write_json(json_file, report)
    for row in report["left_out"][:20]:
        typer.echo(f"{row['status']:8}{printable(row['source'])}: {printable(row['reason'])}")
    if len(report["left_out"]) > 20:
        typer.echo(f"… and {len(report['left_out']) - 20} more, see {out / 'manifest.jsonl'}")
    typer.echo(
        f"{out}: {report['clips']} clips, {report['seconds'] / 60:.1f} min, {report['speakers']} speakers from "
        f"{report['ok']} of {report['inputs']} inputs, {report['bytes'] / 1e6:.1f} MB"
    )
    if not report["clips"]:
        raise ValueError(f"no clips: expected inputs with a face and speech, see {out / 'manifest.jsonl'}")


@app.command()
def features(
    paths: Annotated[list[Path], typer.Argument(help="Audio and video files, and folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder: FOLDER/a/b.wav becomes OUT/a/b.npy. Run again to continue.")],
    model: Model = BEST_MODEL,
    suffix: Annotated[
        str | None, typer.Option(help="Files to take in folders, such as .wav; default: audio and video.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Compute the audio features that an expert takes (mel, HuBERT or Whisper), one .npy per file; restartable."""
    import torch

    from unisync_loss.data.audio_features import write_features
    from unisync_loss.models.pretrained import load_expert

    expert = load_expert(model, device="cuda" if torch.cuda.is_available() else None)
    report = write_features(paths, expert, model, out, suffix=suffix, log=log)
    if json_file:
        write_json(json_file, report)
    skipped = [f"{printable(row['file'])}: {printable(row['reason'])}" for row in report["skipped"]]
    for line in skipped[:20]:
        typer.echo(f"skipped {line}")
    if len(skipped) > 20:
        typer.echo(f"… and {len(skipped) - 20} more")
    if len(skipped) == report["files"]:
        raise ValueError(f"none of {report['files']} files has features; {skipped[0]}")
    typer.echo(
        f"{out}: {report['written']} arrays written, of {report['seconds'] / 60:.1f} min, {report['kept']} kept; "
        f"{report['audio']}, {report['features']} features, {report['steps_per_second']} steps per second"
    )


@app.command()
def doctor(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Stores, folders and files; several folders are splits.", metavar="STORE|FILE..."),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Released name, checkpoint folder, or owner/name[@revision]; any expert whose visual representation "
            "can be made from video. Thresholds are those of mel-rgb 0.1."
        ),
    ] = BEST_MODEL,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html, a page with figures.")] = None,
    json_file: Json = None,
) -> None:
    """Find what harms training, with a fix for each problem. Exit code 0: clean, 1: problems, 2: no readable input."""
    from unisync_loss.curation.doctor_page import examine_and_report, report_table
    from unisync_loss.models.pretrained import load_expert

    try:
        result = examine_and_report(paths, load_expert(model), report, log)
        if json_file:
            write_json(json_file, result)
    except INPUT_ERRORS as error:
        log(f"unisync: {error}")
        raise typer.Exit(2) from error
    typer.echo(report_table(result))
    if report:
        typer.echo(f"report: {report / 'report.html'}")
    if result["problems"]:
        raise typer.Exit(1)


@app.command()
def align(
    data: Annotated[Path, typer.Argument(help="Store, or folder of <corpus>/<speaker>/<clip>.mp4.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Expert; repeat for several. Default: whisper-rgb and whisper-3dmm.")
    ] = None,
    unseen: Annotated[
        list[Path] | None, typer.Option(help="Per model: its fold, or a list of the clips it was not trained on.")
    ] = None,
    zero: Annotated[str | None, typer.Option(help="Corpus known to be in sync: its mean offset becomes 0.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Do not align: write this many folds to train on.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the folds.")] = None,
    json_file: Json = None,
) -> None:
    """Estimate the audio offset of every clip and write DATA/offsets.csv, which train and eval honour."""
    from unisync_loss.curation.align import AlignmentExpert, report_lines
    from unisync_loss.curation.align import align as run
    from unisync_loss.curation.folds import make_folds, read_unseen
    from unisync_loss.models.pretrained import load_expert

    if (folds is None) != (out is None):
        raise typer.BadParameter("expected --folds and --out together", param_hint="--folds")
    if folds is not None and out is not None:
        for view in make_folds(data, folds, out):
            typer.echo(f"{view}: {len(read_unseen(view))} clips left out")
        return
    names = model or [BEST_MODEL, "whisper-3dmm"]  # together more accurate than either (docs/scores.md)
    if unseen and len(unseen) != len(names):
        raise typer.BadParameter(
            f"expected one for each of {len(names)} models, got {len(unseen)}", param_hint="--unseen"
        )
    lists = [read_unseen(path) for path in unseen] if unseen else [None] * len(names)
    experts = [AlignmentExpert(name, load_expert(name), clips) for name, clips in zip(names, lists, strict=True)]
    report = run(data, experts, zero=zero, log=log)
    if json_file:
        write_json(json_file, report)
    typer.echo(report_lines(report))
