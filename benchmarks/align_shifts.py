"""Share of randomly shifted real clips whose offset `unisync align` corrects.

    python benchmarks/align_shifts.py --data VAL --out OUT --json align_shifts.json
    python benchmarks/align_shifts.py --data VAL --out OUT --json again.json -- --init mel-rgb recipe.steps=100

The audio is shifted by a uniform random offset within ±10 frames, fractions included, and the clips are re-encoded.
The folder must be in sync (or have an offsets.csv). The same clips without a shift show how many a clean folder would
lose.

Arguments after ``--`` go to ``unisync train`` (any pair; more clips with ``--data``) for one round of retraining in
two folds by speaker on the offsets just found. Each clip is then aligned again by the expert that was not trained on
it. Resumable.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisync_loss import load_expert
from unisync_loss.curation.align import SMALLEST, AlignmentExpert, align
from unisync_loss.curation.folds import make_folds, read_unseen
from unisync_loss.data import ClipEntry, list_clips, load_clip, shift_audio, write_clip
from unisync_loss.evaluation import mean_ci

FOLDS = 2


def main() -> None:
    """Shift, align, compare; retrain, align, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips and runs")
    parser.add_argument("--model", default="mel-rgb")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("train", nargs="*", help="options and settings of unisync train")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    entries = list_clips(arguments.data)
    count = min(arguments.clips, len(entries))
    entries = [entries[index * len(entries) // count] for index in range(count)]
    shifts = np.random.default_rng(arguments.seed).uniform(-10, 10, count)
    root = arguments.out / "shifted"
    write_shifted(entries, shifts, root)
    report: dict[str, Any] = {"model": arguments.model, "clips": count, "seed": arguments.seed}
    experts = [AlignmentExpert(arguments.model, load_expert(arguments.model))]
    report["shifted"] = measure(root, shifts, experts, arguments.out / "first.jsonl")
    if arguments.train:
        views = make_folds(root, FOLDS, arguments.out / "folds")
        runs = [retrain(view, arguments.out, arguments.train) for view in views]
        experts = [
            AlignmentExpert(str(run), load_expert(str(run)), read_unseen(view))
            for run, view in zip(runs, views, strict=True)
        ]
        report["train"] = arguments.train
        report["retrained"] = measure(root, shifts, experts, arguments.out / "second.jsonl")
    else:
        write_shifted(entries, np.zeros(count), arguments.out / "clean")
        report["clean"] = measure(arguments.out / "clean", np.zeros(count), experts, arguments.out / "clean.jsonl")
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def write_shifted(entries: Sequence[ClipEntry], shifts: np.ndarray, root: Path) -> None:
    """Write each clip with its audio delayed by its shift."""
    for entry, shift in zip(entries, shifts, strict=True):
        path = (root / entry.name).with_suffix(".mp4")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            clip = shift_audio(load_clip(entry), -shift)
            part = path.with_name(f".{path.name}")
            write_clip(part, np.ascontiguousarray(clip.frames), clip.waveform)
            part.rename(path)


def retrain(view: Path, out: Path, settings: Sequence[str]) -> Path:
    """Train on a fold without validation; returns the folder of the expert."""
    run = out / f"run{view.name}"
    command = [sys.executable, "-m", "unisync_loss.cli", "train", "--out", str(run)]
    if (run / "config.yaml").is_file():
        command += ["--resume"]
    else:
        command += ["--data", str(view), *settings]
    subprocess.run(command, check=True)
    return run / "last"


def measure(root: Path, shifts: np.ndarray, experts: Sequence[AlignmentExpert], log: Path) -> dict[str, Any]:
    """Align a folder unless its log exists; accuracy over all clips, with an interval, and over the clips kept."""
    if not log.exists():
        align(root, experts, log=lambda line: print(line, file=sys.stderr, flush=True))
        shutil.copyfile(root / "align.jsonl", log)
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    kept = np.array([row["offset_frames"] is not None for row in rows])
    error = np.abs([(row["offset_frames"] or 0.0) - shift for row, shift in zip(rows, shifts, strict=True)])
    correct = kept & (error <= 1)
    return {
        "within_1": round(float(correct.mean()), 4),
        "within_1_interval": [round(end, 4) for end in mean_ci(correct.astype(float))],
        "kept": round(float(kept.mean()), 4),
        "within_1_of_kept": round(float((error[kept] <= 1).mean()), 4),
        "median_error": round(float(np.median(error[kept])), 3),
        f"moved_by_{SMALLEST}_or_more": round(float((kept & (error >= SMALLEST)).mean()), 4),
    }


if __name__ == "__main__":
    main()
