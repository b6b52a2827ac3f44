"""Commands that measure: eval, score, lse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisync_loss.cli.app import BEST_MODEL, Csv, Json, Model, Seed, app, log, write_json, write_text

Audio = Annotated[
    Path | None,
    typer.Option(help="Take the voice from this audio or video file, which begins as the one video does."),
]


@app.command("eval")
def evaluate(
    data: Annotated[Path, typer.Option(help="Store, STORE/test, or folder of <corpus>/<speaker>/<clip>.mp4.")],
    model: Model = BEST_MODEL,
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Score at most N clips, spread over the folder.")] = None,
    json_file: Json = None,
) -> None:
    """Accuracy, AUC and retrieval of an expert on a folder of clips, with 95 % intervals."""
    from unisync_loss.evaluation.report import eval_table, evaluate_expert
    from unisync_loss.models.pretrained import load_expert

    report = evaluate_expert(load_expert(model), model, data, seed=seed, limit=limit, log=log)
    if json_file:
        write_json(json_file, report)
    typer.echo(eval_table(report))


@app.command()
def score(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Videos, folders of videos, stores and their splits.", metavar="VIDEO|FOLDER|STORE..."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="As for eval; several: the mean of their probabilities. Default: whisper-rgb."),
    ] = None,
    reference: Annotated[
        bool,
        typer.Option("--compare", help="Compare later paths with the real videos of the first, paired by file name."),
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html and a figure per video.")] = None,
    film: Annotated[
        bool, typer.Option("--film", help="Also write each video there, with its curve; not for stores.")
    ] = False,
    audio: Audio = None,
    json_file: Json = None,
    csv_file: Csv = None,
    seed: Seed = 0,
) -> None:
    """Score every face of videos against the audio: offset, confidence, probability over time, speaking face."""
    from unisync_loss.evaluation.compare import comparison_table
    from unisync_loss.evaluation.score import score_paths
    from unisync_loss.evaluation.video_summary import score_csv, score_table
    from unisync_loss.models.pretrained import load_expert

    names = model or [BEST_MODEL]
    experts = [load_expert(name) for name in names]
    result = score_paths(
        paths, experts, "+".join(names), report=report, film=film, reference=reference, audio=audio, seed=seed, log=log
    )
    videos = result["videos"]
    if json_file:
        write_json(json_file, result)
    if csv_file:
        write_text(csv_file, score_csv(videos))
    errors = [f"{video['video']}: {video['error']}" for video in videos if "error" in video]
    if len(errors) == len(videos):
        raise ValueError(f"none of {len(errors)} videos could be scored: {errors[0]}" if errors[1:] else errors[0])
    typer.echo(score_table(videos))
    if "comparison" in result:
        typer.echo(comparison_table(result["comparison"]))
    if report:
        typer.echo(f"report: {report / 'report.html'}")


@app.command()
def lse(
    paths: Annotated[list[Path], typer.Argument(help="Videos, and folders of videos.", metavar="VIDEO|FOLDER...")],
    weights: Annotated[Path, typer.Option(help="syncnet_v2.model, or its copy in safetensors format.")],
    variant: Annotated[str, typer.Option(help="syncnet, wav2lip-real, wav2lip-lrs or latentsync.")] = "syncnet",
    audio: Audio = None,
    json_file: Json = None,
    csv_file: Csv = None,
) -> None:
    """LSE-D and LSE-C (SyncNet, 2016) by a named procedure."""
    from unisync_loss.lse.procedures import measure_videos
    from unisync_loss.lse.results import lse_csv, lse_table

    report = measure_videos(paths, weights, variant, log, audio=audio)
    if json_file:
        write_json(json_file, report)
    if csv_file:
        write_text(csv_file, lse_csv(report))
    if not report["videos"]:
        first = report["skipped"][0]
        raise ValueError(f"none of {report['n_skipped']} videos could be measured; {first['video']}: {first['reason']}")
    typer.echo(lse_table(report))
