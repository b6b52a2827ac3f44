"""Share of real clips whose offset `unisync align` puts right, the sound of each first shifted by a random offset.

    python benchmarks/align_shifts.py --data VAL --clips 200 --json out/align_shifts.json

Shifts are uniform within ±10 frames and of any fraction of a frame. The folder must be in sync (or have an
offsets.csv). The same clips unshifted tell how many a clean folder would lose or see moved by more than a frame.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisync_loss.align import SMALL, Judge, decide, read_curves
from unisync_loss.clips import ClipEntry, list_clips
from unisync_loss.pretrained import load_expert


def main() -> None:
    """Shift, align, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="mel-rgb")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    judges = [Judge(arguments.model, load_expert(arguments.model))]
    entries = list_clips(arguments.data)
    count = min(arguments.clips, len(entries))
    entries = [entries[index * len(entries) // count] for index in range(count)]
    shifts = np.random.default_rng(arguments.seed).uniform(-10, 10, count)
    report = {
        "model": arguments.model,
        "clips": count,
        "seed": arguments.seed,
        "shifted": measure(entries, shifts, judges),
        "clean": measure(entries, np.zeros(count), judges),
    }
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(entries: Sequence[ClipEntry], shifts: np.ndarray, judges: Sequence[Judge]) -> dict[str, Any]:
    """Scores over all clips, and over those that were kept."""
    # to read the sound earlier is to make it late
    moved = [replace(entry, offset=entry.offset - shift) for entry, shift in zip(entries, shifts, strict=True)]
    curves, problems = read_curves(moved, judges, lambda line: print(line, file=sys.stderr))
    decisions, _ = decide(moved, curves, problems, {})
    kept = np.array([row.offset_frames is not None for row in decisions])
    error = np.abs([(row.offset_frames or 0.0) - shift for row, shift in zip(decisions, shifts, strict=True)])
    return {
        "within_1": round(float((kept & (error <= 1)).mean()), 4),
        "kept": round(float(kept.mean()), 4),
        "within_1_of_kept": round(float((error[kept] <= 1).mean()), 4),
        "median_error": round(float(np.median(error[kept])), 3),
        f"moved_by_{SMALL}_or_more": round(float((kept & (error >= SMALL)).mean()), 4),
    }


if __name__ == "__main__":
    main()
