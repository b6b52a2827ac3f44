"""Scores of generated, dubbed and mismatched talking faces, compared with real ones.

    python benchmarks/generated.py --generated GENERATED --real TEST VAL TRAIN --plot docs/generated.png

GENERATED/<kind>/<clip> are face crops with audio, REAL/<corpus>/<speaker>/<clip> are real ones. Each kind is compared
with the corpus of its source videos if there is one (SOURCES), clip by clip where the names end in the same YouTube
id and number, and with the first real folder, which no expert was trained on. Only the corpora needed are read. Each
clip is scored as a whole, as by `unisync score`, but without face detection. Clips that cannot be read, or show no
face to an expert on landmarks, are skipped and named. Intervals are 95 % bootstraps over clips.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unisync_loss import UniSyncExpert, load_expert
from unisync_loss.data import ClipEntry, find_videos, list_clips
from unisync_loss.evaluation import MAX_OFFSET, TOLERANCE, embed_clips, find_offset, mean_ci, offset_table
from unisync_loss.utils.progress import Progress

#: kind of generated clip: description, and the corpus with the real clips of its sources
SOURCES = {
    "lipquiz_wav2lip": ("Wav2Lip, lips generated for the audio", None),
    "wav2lip288_out": ("Wav2Lip 288, lips generated for the audio", None),
    "dinet_out": ("DINet, lips generated for the audio", None),
    "geneface_out": ("GeneFace, face generated for the audio", None),
    "sadtalker_out": ("SadTalker, face generated for the audio", None),
    "lrs3_aligndit_resynth": ("speech synthesised for real lips (dubbing)", "lrs3_aligndit"),
    "lrs3_lip2speechunit_resynth": ("speech generated from real lips", "lrs3_lip2speechunit"),
    "revise_out": ("speech generated from real lips and noise", "revise_raw"),
    "mcgurk_luv_incongruent": ("audio of another syllable", "mcgurk_luvghodasara"),
    "mcgurk_pl_filyp_incongruent": ("audio of another syllable", "mcgurk_pl_filyp"),
    "mcgurk_romajaku_incongruent": ("audio of another syllable", "mcgurk_romajaku"),
}
MEASURES = ("probability", "voiced", "at_offset", "confidence", "within_1")
_SOURCE = re.compile(r"[A-Za-z0-9_-]{11}_\d{5}$")


def main() -> None:
    """Score all groups and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generated", type=Path, required=True)
    parser.add_argument("--real", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="mel-rgb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    groups = list_groups(options.generated, options.real)
    expert = load_expert(options.model)
    left_out: dict[str, str] = {}
    clips = score_all(expert, groups, options.seed, left_out)
    report = {
        "model": options.model,
        "seed": options.seed,
        "groups": {name: summary(rows, options.seed) for name, rows in clips.items()},
        "paired": {kind: row for kind in SOURCES if (row := paired(clips, kind, options.seed))},
        "left_out": left_out,
        "clips": clips,
    }
    print(table(report))
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(clips, options.plot)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def list_groups(generated: Path, real: Sequence[Path]) -> dict[str, list[ClipEntry]]:
    """Clips by group: held-out real clips, the corpora of the sources, and the kinds found."""
    groups = {"real, held out": list_clips(real[0])}
    known = [entry for folder in real for entry in list_clips(folder)]
    for kind, (_, corpus) in SOURCES.items():
        files = find_videos(generated / kind) if (generated / kind).is_dir() else []
        if not files:
            continue
        if corpus:
            groups[f"real {corpus}"] = [entry for entry in known if entry.corpus == corpus]
        groups[kind] = [ClipEntry(path, f"{kind}/{path.name}", kind, kind) for path in files]
    return {name: entries for name, entries in groups.items() if entries}


def score_all(
    expert: UniSyncExpert, groups: dict[str, list[ClipEntry]], seed: int, left_out: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Scores of every clip by group; a clip in two groups is scored once."""
    entries = list({entry.path: entry for group in groups.values() for entry in group}.values())
    progress = Progress(partial(print, file=sys.stderr), len(entries), "clips")
    scored = {}
    for path, row in scores(expert, entries, seed, left_out):
        scored[path] = row
        done = len(scored) + len(left_out)
        progress.update(done)
    rows = {name: [scored[entry.path] for entry in group if entry.path in scored] for name, group in groups.items()}
    return {name: group for name, group in rows.items() if group}


def scores(
    expert: UniSyncExpert, entries: list[ClipEntry], seed: int, left_out: dict[str, str]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Scores of clips, one at a time."""
    for clip in embed_clips(expert, entries, skipped=left_out):
        values = offset_table(clip)
        offset = find_offset(values, seed)
        uncorrected = values[:, MAX_OFFSET]
        yield (
            clip.entry.path,
            {
                "clip": clip.entry.name,
                "windows": len(values),
                "probability": round(float(uncorrected.mean()), 4),
                "voiced": round(float(uncorrected[clip.voiced].mean()), 4) if clip.voiced.any() else None,
                "at_offset": round(float(np.nanmean(values[:, offset.frames + MAX_OFFSET])), 4),
                "confidence": round(offset.confidence, 4),
                "offset": offset.frames,
                "within_1": abs(offset.frames) <= TOLERANCE,
            },
        )


def summary(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Mean of every measure over clips, with its interval."""
    result: dict[str, Any] = {"clips": len(rows)}
    for name in MEASURES:
        values = np.array([np.nan if row[name] is None else float(row[name]) for row in rows])
        result[name] = interval(values, seed)
    return result


def interval(values: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean and its 95 % interval; no interval for fewer than five clips."""
    ends = mean_ci(values, seed=seed) if len(values) >= 5 else ()
    return {"mean": round(float(np.nanmean(values)), 4), "ci95": [round(end, 4) for end in ends] or None}


def paired(clips: dict[str, list[dict[str, Any]]], kind: str, seed: int) -> dict[str, Any] | None:
    """Differences to the real clips of the same source; None if the names give no pairs."""
    real = {key: row for row in clips.get(f"real {SOURCES[kind][1]}", []) if (key := source_of(row))}
    pairs = [(row, real[key]) for row in clips.get(kind, []) if (key := source_of(row)) in real]
    if not pairs:
        return None
    differences = {
        name: interval(np.array([float(made[name]) - float(true[name]) for made, true in pairs]), seed)
        for name in MEASURES
        if name != "voiced"
    }
    return {"pairs": len(pairs), "sources": len({source_of(row) for _, row in pairs}), **differences}


def source_of(row: dict[str, Any]) -> str | None:
    """YouTube id and number at the end of the name of a clip."""
    found = _SOURCE.search(Path(row["clip"]).stem)
    return found[0] if found else None


def table(report: dict[str, Any]) -> str:
    """Report as text, one line per group."""
    lines = [f"skipped {name}: {reason}" for name, reason in report["left_out"].items()]
    lines.append(f"{'':32}clips" + "".join(f"{name:>24}" for name in MEASURES))
    for name, row in report["groups"].items():
        lines.append(f"{name:32}{row['clips']:5d}" + "".join(f"{cell(row[measure]):>24}" for measure in MEASURES))
    for name, row in report["paired"].items():
        text = ", ".join(f"{measure} {cell(row[measure])}" for measure in MEASURES if measure in row)
        lines.append(f"{name} minus its real source, {row['pairs']} pairs from {row['sources']} sources: {text}")
    return "\n".join(lines)


def cell(value: dict[str, Any]) -> str:
    """Mean and interval as text."""
    ends = f" [{value['ci95'][0]:.2f}, {value['ci95'][1]:.2f}]" if value["ci95"] else ""
    return f"{value['mean']:.3f}{ends}"


def plot(clips: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Box plots of the scores by group."""
    figure = Figure(figsize=(10, 0.34 * len(clips) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(clips)[::-1]
    titles = {"probability": "probability, uncorrected", "confidence": "confidence", "offset": "offset, frames"}
    for axes, (measure, title) in zip(figure.subplots(1, 3, sharey=True), titles.items(), strict=True):
        boxes = axes.boxplot(
            [[row[measure] for row in clips[name]] for name in names],
            orientation="horizontal",
            patch_artist=True,
            widths=0.6,
            flierprops={"marker": ".", "markersize": 3},
            medianprops={"color": "#1f2933"},
        )
        for box, name in zip(boxes["boxes"], names, strict=True):
            box.set_facecolor("#9fd3dc" if name.startswith("real") else "#f2c9a0")
        axes.set(title=title)
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(range(1, len(names) + 1), [f"{name} ({len(clips[name])})" for name in names])
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
