"""Commands that measure: eval, score, lse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisync_loss.cli.app import Json, Model, Seed, app, log, write_json, write_text
from unisync_loss.utils.progress import Progress


@app.command("eval")
def evaluate(
    data: Annotated[Path, typer.Option(help="Store, STORE/test, or folder of <corpus>/<speaker>/<clip>.mp4.")],
    model: Model = "mel-rgb",
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only so many clips, spread over the folder.")] = None,
    json_file: Json = None,
) -> None:
    """Accuracy, AUC and retrieval of an expert on a folder of clips, with 95 % intervals."""
    from unisync_loss.data.clips import list_split
    from unisync_loss.evaluation.embeddings import ClipEmbedding, embed_clips
    from unisync_loss.evaluation.report import report_table, summarise
    from unisync_loss.models.pretrained import load_expert

    expert = load_expert(model)
    entries = list_split(data)
    if limit is not None and limit < len(entries):
        entries = [entries[index * len(entries) // limit] for index in range(limit)]
    clips: list[ClipEmbedding] = []
    left_out: dict[str, str] = {}
    progress = Progress(log, len(entries), "clips")
    for clip in embed_clips(expert, entries, left_out=left_out):
        clips.append(clip)
        progress.update(len(clips) + len(left_out))
    report = {
        "audio": expert.config.audio,
        "visual": expert.config.visual,
        **summarise(clips, model, expert.config.threshold, seed, left_out),
    }
    if json_file:
        write_json(json_file, report)
    typer.echo(report_table(report))


@app.command()
def score(
    paths: Annotated[
        list[Path], typer.Argument(help="Videos, or folders of videos, as found.", metavar="VIDEO|FOLDER...")
    ],
    model: Model = "mel-rgb",
    versus: Annotated[
        bool, typer.Option("--compare", help="The first path is real, the others generated twins: paired differences.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html and a picture of every video.")] = None,
    film: Annotated[bool, typer.Option("--film", help="Write every video there, too, its curve burnt in.")] = False,
    json_file: Json = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a row for every face to this file.")] = None,
    seed: Seed = 0,
) -> None:
    """Score every face of videos against the sound: offset, confidence, probability over time, who speaks."""
    from unisync_loss.evaluation.compare import comparison_lines
    from unisync_loss.evaluation.score import score_paths
    from unisync_loss.evaluation.video_summary import to_csv, to_lines
    from unisync_loss.models.pretrained import load_expert

    expert = load_expert(model)
    result = score_paths(paths, expert, model, report=report, film=film, versus=versus, seed=seed, log=log)
    if json_file:
        write_json(json_file, result)
    if csv_file:
        write_text(csv_file, to_csv(result["videos"]))
    errors = [f"{video['video']}: {video['error']}" for video in result["videos"] if "error" in video]
    if len(errors) == len(result["videos"]):
        raise ValueError(f"none of {len(errors)} videos could be scored: {errors[0]}" if errors[1:] else errors[0])
    typer.echo(to_lines(result["videos"]))
    if versus:
        typer.echo(comparison_lines(result["comparison"]))
    if report:
        typer.echo(f"report: {report / 'report.html'}")


@app.command()
def lse(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Videos, and folders of videos.")],
    weights: Annotated[Path, typer.Option(help="syncnet_v2.model, or its copy in safetensors format.")],
    variant: Annotated[str, typer.Option(help="syncnet, wav2lip-real, wav2lip-lrs or latentsync.")] = "syncnet",
    json_file: Json = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a line for each track to this file.")] = None,
) -> None:
    """LSE-D and LSE-C (SyncNet, 2016) by a named procedure."""
    from unisync_loss.lse.procedures import measure_videos, to_csv, to_table

    report = measure_videos(paths, weights, variant, log)
    if json_file:
        write_json(json_file, report)
    if csv_file:
        write_text(csv_file, to_csv(report))
    if not report["videos"]:
        first = report["skipped"][0]
        raise ValueError(f"none of {report['n_skipped']} videos could be measured; {first['video']}: {first['reason']}")
    typer.echo(to_table(report))
