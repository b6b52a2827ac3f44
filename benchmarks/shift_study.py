"""Error of the estimated offset when the audio of real clips is shifted by -10 … +10 frames.

    python benchmarks/shift_study.py --data TEST --json out/shift_study.json --plot docs/shift_study.png

Uses clips of at least two seconds that are in sync (or have an offsets.csv), drawn by seed. Each shift keeps the
frames that still have audio, and embeds the audio again; the video is embedded once. The estimate is that of `unisync
score`. Intervals are 95 % bootstraps over clips, because the shifts of a clip are not independent. Clips that cannot
be read, or show no face to an expert on landmarks, are skipped and named.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unisync_loss import UniSyncExpert, list_pretrained, load_expert
from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.data import ClipEntry, list_clips, load_clip
from unisync_loss.evaluation import MAX_OFFSET, TOLERANCE, ClipEmbedding, embed_clips, find_offset, mean_ci
from unisync_loss.functional import offset_matrix
from unisync_loss.utils.progress import Progress
from unisync_loss.video.decoding import read_facts

SHIFTS = range(-10, 11)
SHORTEST = 2.0  # s
FRAME_MS = 1000 // FPS


def main() -> None:
    """Measure every expert on the same clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=list(list_pretrained()))
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    long = [entry for entry in list_clips(options.data) if read_facts(entry.path).seconds >= SHORTEST]
    drawn = np.random.default_rng(options.seed).permutation(len(long))[: options.clips]
    entries = [long[index] for index in sorted(drawn)]
    experts = {name: study(load_expert(name), entries, options.seed) for name in options.model}
    print(f"{len(entries)} of {len(long)} clips of {SHORTEST:g} s or more, {len(SHIFTS)} shifts each")
    for name, row in experts.items():
        print(table(name, row))
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(experts, options.plot)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"clips": [entry.name for entry in entries], "seed": options.seed, "experts": experts}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def study(expert: UniSyncExpert, entries: list[ClipEntry], seed: int) -> dict[str, Any]:
    """Errors of all clips at all shifts in frames, and their summary."""
    left_out: dict[str, str] = {}
    found: dict[str, list[tuple[int, int, int]]] = {}
    progress = Progress(partial(print, file=sys.stderr), len(entries), "clips")
    for clip in embed_clips(expert, entries, skipped=left_out):
        found[clip.entry.name] = list(estimates(expert, clip, seed))
        done = len(found) + len(left_out)
        progress.update(done)
    if not found:
        raise SystemExit(f"no clip could be embedded: {left_out}")
    low, middle, high = np.moveaxis(np.array(list(found.values())), 2, 0)
    errors, contained = middle - np.array(SHIFTS), (low <= SHIFTS) & (high >= SHIFTS)

    def with_interval(values: np.ndarray) -> dict[str, Any]:
        """Mean of (clips, shifts) with its interval over clips."""
        means = values.mean(1)
        return {"mean": round(float(means.mean()), 4), "ci95": [round(end, 4) for end in mean_ci(means, seed=seed)]}

    off = np.abs(errors)
    return {
        "within_1": with_interval(off <= TOLERANCE),
        "exact": with_interval(off == 0),
        "mean_absolute_error_ms": with_interval(off * FRAME_MS),
        "interval_holds_the_shift": with_interval(contained),
        "by_shift": [
            {
                "shift": shift,
                "within_1": round(float((off[:, column] <= TOLERANCE).mean()), 4),
                "mean_absolute_error_ms": round(float(off[:, column].mean() * FRAME_MS), 2),
            }
            for column, shift in enumerate(SHIFTS)
        ],
        "by_clip": {
            name: {"within_1": round(float((off[row] <= TOLERANCE).mean()), 4), "errors": errors[row].tolist()}
            for row, name in enumerate(found)
        },
        "left_out": left_out,
    }


def estimates(expert: UniSyncExpert, clip: ClipEmbedding, seed: int) -> Iterator[tuple[int, int, int]]:
    """Lower end, estimate and upper end of the offset of a clip at every shift."""
    visual, waveform = clip.visual, load_clip(clip.entry).waveform
    frames = len(visual) + 4
    for shift in SHIFTS:
        late, early = max(0, shift), max(0, -shift)
        left = frames - late - early
        shifted = torch.from_numpy(waveform[early * SAMPLES_PER_FRAME :][: left * SAMPLES_PER_FRAME])
        with torch.inference_mode():
            audio = expert.encode_audio(shifted[None], left).cpu()
        scores = offset_matrix(audio, visual[None, late : late + left - 4], MAX_OFFSET)[0]
        offset = find_offset(scores.double().numpy(), seed)
        yield offset.low, offset.frames, offset.high


def table(name: str, row: dict[str, Any]) -> str:
    """Results of one expert as text."""
    error = row["mean_absolute_error_ms"]
    lines = [
        f"{name}: within ±1 frame {row['within_1']['mean']:.3f} {row['within_1']['ci95']}, "
        f"exact {row['exact']['mean']:.3f} {row['exact']['ci95']}, "
        f"mean absolute error {error['mean']:.1f} ms {error['ci95']}, "
        f"interval contains the shift {row['interval_holds_the_shift']['mean']:.3f}",
        "  shift  within ±1  error, ms",
    ]
    lines += [f"  skipped {name}: {reason}" for name, reason in row["left_out"].items()]
    lines += [
        f"  {one['shift']:+5d}  {one['within_1']:9.3f}  {one['mean_absolute_error_ms']:9.1f}" for one in row["by_shift"]
    ]
    return "\n".join(lines)


def plot(experts: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot the share within one frame, and the error, by shift."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    share, error = figure.subplots(1, 2)
    for name, row in experts.items():
        share.plot(SHIFTS, [one["within_1"] for one in row["by_shift"]], marker="o", ms=3, label=name)
        error.plot(SHIFTS, [one["mean_absolute_error_ms"] for one in row["by_shift"]], marker="o", ms=3, label=name)
    share.set(ylim=(0, 1.03), title="Share within ±1 frame", xlabel="shift applied, frames (+ = audio late)")
    error.set(title="Mean absolute error, ms", xlabel="shift applied, frames (+ = audio late)")
    error.set_ylim(bottom=0)
    share.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
