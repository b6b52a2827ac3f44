"""Shift the audio of real clips by ±5 frames: the estimated offset must move by as much.

    python benchmarks/metamorphic.py --model mel-rgb --data DIR --json out/metamorphic.json

Clips of at least two seconds. Both the shifted and the unshifted clip are cut to the frames that have audio.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from unisync_loss.clips import list_clips
from unisync_loss.evaluate import embed_clips, estimate_offset
from unisync_loss.pretrained import load_expert

SHIFT = 5
SHORTEST = 46  # windows of a two-second clip


def main() -> None:
    """Estimate every clip's offset three times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mel-rgb")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    expert = load_expert(options.model)
    rows = {}
    for entry in list_clips(options.data):
        # an entry's offset is put right when it is read: -5 leaves the audio 5 frames late
        entries = [replace(entry, offset=entry.offset - shift) for shift in (0, SHIFT, -SHIFT)]
        first = next(embed_clips(expert, entries[:1]))
        if len(first.visual) < SHORTEST:
            continue
        still, late, early = (estimate_offset(clip) for clip in [first, *embed_clips(expert, entries[1:])])
        rows[entry.name] = {"offset": still, "late": late, "early": early}
    offsets = np.array([[row["offset"], row["late"], row["early"]] for row in rows.values()])
    moved = (np.abs(offsets[:, 1] - offsets[:, 0] - SHIFT) <= 1) & (np.abs(offsets[:, 2] - offsets[:, 0] + SHIFT) <= 1)
    report = {
        "model": options.model,
        "clips": len(rows),
        "unshifted_within_1": round(float((np.abs(offsets[:, 0]) <= 1).mean()), 4),
        "moved_by_5_within_1": round(float(moved.mean()), 4),
        "both": round(float((moved & (np.abs(offsets[:, 0]) <= 1)).mean()), 4),
        "offsets": rows,
    }
    print({key: value for key, value in report.items() if key != "offsets"})
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
