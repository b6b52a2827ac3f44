"""Reference offsets of real clips, and whether they move with the audio.

    python -m research.lip_zero.benchmark --data VAL --cache CACHE --json lip_zero.json

How late the audio of each corpus is where closed lips part, corrected by its offsets.csv, unchanged and delayed by
3 frames. The cache is the trainer's; clips missing from it are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from research.lip_zero.closures import find_partings, find_zero, level_rise, lip_gap, rises_at
from unisync_loss.config import SAMPLES_PER_FRAME
from unisync_loss.data import list_clips
from unisync_loss.training.data.cache import build_cache, cache_path, load
from unisync_loss.training.data.face_features import MESH_CENTRE
from unisync_loss.utils.progress import Progress

SHIFT = 3  # frames


def main() -> None:
    """Measure each corpus, and all together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    entries = list_clips(arguments.data)
    progress = Progress(partial(print, file=sys.stderr), len(entries), "clips")
    for done, _, _ in build_cache(entries, arguments.cache, arguments.workers, "mesh"):
        progress.update(done)
    rises: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
    for entry in entries:
        if not cache_path(entry, arguments.cache, "mesh").exists():  # no face
            continue
        cached = load(entry, arguments.cache, "mesh")
        mesh = cached["mesh"].astype(np.float32) + np.asarray(MESH_CENTRE, np.float32)
        moments = find_partings(lip_gap(mesh, (int(cached["size"][0]), int(cached["size"][1])))) + entry.offset
        late = np.pad(cached["waveform"], (SHIFT * SAMPLES_PER_FRAME, 0))
        both = rises_at(level_rise(cached["waveform"]), moments), rises_at(level_rise(late), moments)
        rises.setdefault(entry.corpus, []).append(both)
    rises["all"] = [both for corpus in list(rises) for both in rises[corpus]]
    report: dict[str, Any] = {}
    for corpus, clips in rises.items():
        zeros = [find_zero([both[place] for both in clips]) for place in (0, 1)]
        names = ("unchanged", f"{SHIFT} frames late")
        report[corpus] = {
            name: {**zero._asdict(), "reliable": zero.is_reliable} for name, zero in zip(names, zeros, strict=True)
        }
        print(corpus, *(f"{zero.offset:+.2f} [{zero.low:+.2f}, {zero.high:+.2f}]" for zero in zeros), end=" ")
        print(f"{zeros[0].partings} partings in {zeros[0].clips} clips{'' if zeros[0].is_reliable else ', unreliable'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
