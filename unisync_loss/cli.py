"""The ``unisync`` program. Exit code 0: done; 1: the input's fault, one line on stderr; 2: wrong usage.

``doctor`` alone: 0: clean; 1: problems found; 2: nothing could be looked at.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from unisync_loss import __version__
from unisync_loss.files import to_json, write_atomically
from unisync_loss.progress import Pace, printable

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lip-sync expert, loss and measures.",
)
#: what a user's input can cause; anything else is our defect and keeps its traceback
INPUT_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)

Model = Annotated[str, typer.Option(help="Released name, checkpoint folder, or owner/name[@revision] on the Hub.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn.")]


def say(line: str) -> None:
    """Print a line of progress at once."""
    typer.echo(line, err=True)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON."""
    write_text(path, to_json(report, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folder for it where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


@app.command()
def demo(
    video: Annotated[Path | None, typer.Option(help="A clip of one face; default: the embedded drawn face.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("out/demo"),
    model: Model = "mel-rgb",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a training; default: three minutes.")] = None,
    seed: Seed = 0,
) -> None:
    """Train a small generator with and without the loss, and show what it learnt."""
    from unisync_loss.demo import run_demo
    from unisync_loss.pretrained import load_expert

    result = run_demo(video, out, load_expert(model), seed=seed, steps=steps, progress=say)
    typer.echo(result.table())
    typer.echo(f"report: {out / 'report.html'}")


@app.command()
def prepare(
    sources: Annotated[list[Path], typer.Argument(help="Video files, folders, and stores whose clips are taken over.")],
    out: Annotated[Path, typer.Option(help="The clip store: a new or empty folder, or a store to go on with.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = max(1, (os.cpu_count() or 1)),
    shard: Annotated[str, typer.Option(help="Do one share of the inputs: 0/8 … 7/8, on as many machines.")] = "0/1",
    speakers: Annotated[
        str | None, typer.Option(help="CSV with columns source,speaker; or module:function of a path.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="module:function of frames and waveform that gives parsing, coefficients, …")
    ] = None,
    json_file: Json = None,
) -> None:
    """Videos to training clips: 25 fps and 16 kHz by time stamps, faces tracked and cropped, landmarks; restartable."""
    from unisync_loss.prepare import prepare as run

    share = re.fullmatch(r"(\d+)/(\d+)", shard)
    if share is None:
        raise typer.BadParameter(f"expected i/n, got {shard!r}", param_hint="--shard")
    places = int(share[1]), int(share[2])
    report = run(sources, out, speakers=speakers, provider=features, shard=places, workers=workers, say=say)
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
        raise ValueError(f"no clips: expected inputs with a face and a voice, see {out / 'manifest.jsonl'}")


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
    from unisync_loss.recipe import resolve
    from unisync_loss.selftest import overfit as learn_by_heart
    from unisync_loss.selftest import shuffled
    from unisync_loss.train import train as run

    saved = out / "config.yaml" if out is not None and resume and (out / "config.yaml").is_file() else None
    given: dict[str, Any] = {
        **{name: str(path) if path else None for name, path in {"out": out, "val": val, "cache": cache}.items()},
        **{"preset": preset, "audio": audio, "visual": visual, "hubert": hubert, "init": init, "seed": seed},
        **{"data": [str(folder) for folder in data] if data else None, "overfit": overfit},
    }
    settled, expert = resolve(given, config or saved, settings or [])
    if settled.overfit or shuffle_labels:
        report = (learn_by_heart if settled.overfit else shuffled)(settled, expert, say)
        if json_file:
            write_json(json_file, report)
        typer.echo("  ".join(f"{key} {value}" for key, value in report.items()))
        return
    run(settled, expert, resume=resume, say=say)
    left = [str(Path(settled.out) / name) for name in ("best", "last") if (Path(settled.out) / name).is_dir()]
    typer.echo(f"checkpoints: {', '.join(left) or 'none yet'}")


@app.command()
def align(
    data: Annotated[Path, typer.Argument(help="Store, or folder of <corpus>/<speaker>/<clip>.mp4.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Expert, default mel-rgb; may be given several times.")
    ] = None,
    unseen: Annotated[
        list[Path] | None, typer.Option(help="One for each model: fold, or list, of the clips it was not trained on.")
    ] = None,
    zero: Annotated[str | None, typer.Option(help="Corpus known to be in sync.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Do not align: write so many folds to train on.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the folds.")] = None,
    json_file: Json = None,
) -> None:
    """Estimate how late each clip's sound is and write DATA/offsets.csv, which train and eval honour."""
    from unisync_loss.align import Judge, to_lines
    from unisync_loss.align import align as run
    from unisync_loss.folds import make_folds, read_unseen
    from unisync_loss.pretrained import load_expert

    if (folds is None) != (out is None):
        raise typer.BadParameter("expected --folds and --out together", param_hint="--folds")
    if folds is not None and out is not None:
        for view in make_folds(data, folds, out):
            typer.echo(f"{view}: {len(read_unseen(view))} clips left out")
        return
    names = model or ["mel-rgb"]
    if unseen and len(unseen) != len(names):
        raise typer.BadParameter(
            f"expected one for each of {len(names)} models, got {len(unseen)}", param_hint="--unseen"
        )
    lists = [read_unseen(path) for path in unseen] if unseen else [None] * len(names)
    judges = [Judge(name, load_expert(name), clips) for name, clips in zip(names, lists, strict=True)]
    report = run(data, judges, zero=zero, say=say)
    if json_file:
        write_json(json_file, report)
    typer.echo(to_lines(report))


@app.command()
def doctor(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Stores, folders and files; several folders are taken as splits.", metavar="STORE|FILE..."),
    ],
    model: Model = "mel-rgb",
    report: Annotated[Path | None, typer.Option(help="Folder for report.html, a page with pictures.")] = None,
    json_file: Json = None,
) -> None:
    """Look for what spoils a training: verdict and remedy. Exit code 0: clean, 1: problems, 2: nothing to be read."""
    from unisync_loss.doctor_report import report_on, to_table
    from unisync_loss.pretrained import load_expert

    try:
        result = report_on(paths, load_expert(model), report, say)
        if json_file:
            write_json(json_file, result)
    except INPUT_ERRORS as error:
        say(f"unisync: {error}")
        raise typer.Exit(2) from error
    typer.echo(to_table(result))
    if report:
        typer.echo(f"report: {report / 'report.html'}")
    if result["problems"]:
        raise typer.Exit(1)


@app.command("eval")
def evaluate(
    data: Annotated[Path, typer.Option(help="Store, STORE/test, or folder of <corpus>/<speaker>/<clip>.mp4.")],
    model: Model = "mel-rgb",
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only so many clips, spread over the folder.")] = None,
    json_file: Json = None,
) -> None:
    """Accuracy, AUC and retrieval of an expert on a folder of clips, with 95 % intervals."""
    from unisync_loss.clips import list_split
    from unisync_loss.evaluate import ClipEmbedding, embed_clips
    from unisync_loss.pretrained import load_expert
    from unisync_loss.protocols import report_table, summarise

    expert = load_expert(model)
    entries = list_split(data)
    if limit is not None and limit < len(entries):
        entries = [entries[index * len(entries) // limit] for index in range(limit)]
    clips: list[ClipEmbedding] = []
    left_out: dict[str, str] = {}
    pace = Pace(say, len(entries))
    for clip in embed_clips(expert, entries, left_out=left_out):
        clips.append(clip)
        done = len(clips) + len(left_out)
        pace.tell(done, f"{done}/{len(entries)} clips")
    report = {
        "audio": expert.config.audio,
        "visual": expert.config.visual,
        **summarise(clips, model, expert.config.threshold, seed, left_out),
    }
    if json_file:
        write_json(json_file, report)
    typer.echo(report_table(report))


@app.command()
def lse(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Videos, and folders of videos.")],
    weights: Annotated[Path, typer.Option(help="syncnet_v2.model, or its copy in safetensors format.")],
    variant: Annotated[str, typer.Option(help="syncnet, wav2lip-real, wav2lip-lrs or latentsync.")] = "syncnet",
    json_file: Json = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a line for each track to this file.")] = None,
) -> None:
    """LSE-D and LSE-C (SyncNet, 2016) by a named procedure."""
    from unisync_loss.lse_video import measure_videos, to_csv, to_table

    report = measure_videos(paths, weights, variant, say)
    if json_file:
        write_json(json_file, report)
    if csv_file:
        write_text(csv_file, to_csv(report))
    if not report["videos"]:
        first = report["skipped"][0]
        raise ValueError(f"none of {report['n_skipped']} videos could be measured; {first['video']}: {first['reason']}")
    typer.echo(to_table(report))


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
    from unisync_loss.compare import comparison_lines
    from unisync_loss.pretrained import load_expert
    from unisync_loss.score_run import score_paths
    from unisync_loss.verdict import to_csv, to_lines

    expert = load_expert(model)
    result = score_paths(paths, expert, model, report=report, film=film, versus=versus, seed=seed, say=say)
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
def info(
    model: Annotated[
        str | None, typer.Argument(help="Released name, folder or owner/name; none lists what is bundled.")
    ] = None,
    json_file: Json = None,
) -> None:
    """List the bundled checkpoints, or show one's input contract."""
    from unisync_loss.pretrained import list_pretrained, load_expert

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


def main() -> None:
    """Run the program."""
    try:
        app()
    except INPUT_ERRORS as error:
        sys.exit(f"unisync: {error}")


if __name__ == "__main__":
    main()
