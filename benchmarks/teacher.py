"""How good the gradient of an expert is for a generator: robustness, agreement with the true frames, colours, lips.

    python benchmarks/teacher.py mel-rgb OTHER_EXPERT --data VAL --json out/teacher.json

An expert is a released name, a folder, or a SyncNet (`teacher_experts.py`). From each clip nine frames are taken at
random and scored with their own audio and with audio that is eight frames late.

- accuracy: share of windows on the right side of the checkpoint's threshold, unchanged and after a perturbation of the
  frames that lowers p on their own audio and raises it on late audio: one signed-gradient step, PGD with ten steps of a
  quarter of the radius and a random start, both within ± 2, 4, 8 of 255, and PGD with one value per block of 8 x 8
  pixels, within ± 8. The audio stays as it is.
- cosine: between minus the gradient of the loss on late audio and the change from the given frames to those that fit
  this audio, in the mouth region, by pixel and by block of 8 x 8 pixels.
- chroma, high: shares of the gradient's energy that lie in differences between the channels, and above a quarter of the
  highest frequency.
- gain: rise of p on late audio by PGD within ± 8. lips: correlation of the lip opening's change by it (face mesh) with
  the change to the frames that fit; share: slope, 1 where the lips move as far as these. Low where p rises by texture.

The rows `random noise`, `wanted change` (to the frames that fit, whose lips are measured in the small frames) and
`wanted, within 8` (the same, clamped to ± 8) give the range of these measures. Intervals are 95 % bootstraps over
clips. Every clip is kept in `--cache`, so that an interrupted run continues; delete the folder after a change of the
code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from teacher_experts import Teacher, load_teacher
from teacher_measures import LARGEST, RADII, REFERENCES, Row, measure_segment, reference_rows
from teacher_segments import Segment, choose_segments

from unisync_loss.data import list_clips
from unisync_loss.evaluation import bootstrap_ci, mean_ci
from unisync_loss.utils.files import fingerprint, to_json, write_atomically
from unisync_loss.utils.progress import Progress

ACCURACIES = ("clean", *(f"{kind} {radius}" for kind in ("step", "PGD") for radius in RADII), f"blocks {LARGEST}")
GRADIENT = ("cosine", "cosine_8", "chroma", "high_frequency")
COLUMNS = (*ACCURACIES, *GRADIENT, "gain", "lips", "share")
HEADS = {"high_frequency": "high", "cosine_8": "cos 8 px", "cosine": "cos 1 px"}
Numbers = NDArray[np.float64]


def measure_all(
    teachers: Mapping[str, Teacher], segments: Sequence[Segment], cache: Path
) -> dict[str, list[dict[str, Any]]]:
    """Rows of every expert and reference, one per segment; measured segments are read from the cache."""
    rows: dict[str, list[Row]] = {name: [] for name in (*REFERENCES, *teachers)}
    progress = Progress(partial(print, file=sys.stderr), len(teachers) * len(segments), "clips")
    done = 0
    for name, teacher in teachers.items():
        path = cache / f"{teacher.key[:16]}.json"
        known: dict[str, Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for segment in segments:
            key = segment_key(segment)
            if key not in known:
                known[key] = measure_segment(teacher, segment)
                write_atomically(path, to_json(known))
            rows[name].append({"clip": segment.entry.name, **known[key]})
            done += 1
            progress.update(done, f"{name}: {done}/{len(teachers) * len(segments)} clips")
    for segment in segments:
        for name, row in reference_rows(segment).items():
            rows[name].append({"clip": segment.entry.name, **row})
    return rows


def segment_key(segment: Segment) -> str:
    """Identify a segment by the content of its clip and its place."""
    entry = segment.entry
    text = f"{entry.name} {entry.offset} {fingerprint(entry.path)} {segment.start} {len(segment.given)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def summarise_rows(rows: Sequence[Row], threshold: float | None, seed: int) -> dict[str, dict[str, Any]]:
    """Every measure of an expert with its interval over clips.

    Args:
        rows: of its segments, all of the same length.
        threshold: of its probabilities; None for a reference, which has none.
        seed: of the bootstrap.

    Returns:
        ``value`` and ``ci95`` by measure.
    """
    summary = {}
    if threshold is not None:
        for name in ACCURACIES:
            right = np.array([row["in_sync"][name] for row in rows]) > threshold
            wrong = np.array([row["late"][name] for row in rows]) > threshold
            summary[name] = _mean((right.mean(1) + 1 - wrong.mean(1)) / 2, seed)
        late = {name: np.array([row["late"][name] for row in rows]) for name in ("clean", f"PGD {LARGEST}")}
        summary["gain"] = _mean((late[f"PGD {LARGEST}"] - late["clean"]).mean(1), seed)
    summary |= {name: _mean(np.array([row[name] for row in rows], np.float64), seed) for name in GRADIENT}
    return summary | compare_openings(rows, seed)


def compare_openings(rows: Sequence[Row], seed: int) -> dict[str, dict[str, Any]]:
    """Correlation of the change of the lip opening with the change wanted, and its slope, over frames with a face."""
    moments = np.stack([_moments(row["opening_change"], row["opening_wanted"]) for row in rows])

    def correlation(weights: Numbers) -> Numbers:
        covariance, wanted, change = _central(weights @ moments)
        return covariance / np.sqrt(wanted * change)

    def slope(weights: Numbers) -> Numbers:
        covariance, wanted, _ = _central(weights @ moments)
        return covariance / wanted

    return {name: _statistic(of, len(rows), seed) for name, of in (("lips", correlation), ("share", slope))}


def _moments(change: Sequence[float | None], wanted: Sequence[float | None]) -> Numbers:
    """Number, sums, sums of squares and of products of the frames with both."""
    y, x = np.array(change, np.float64), np.array(wanted, np.float64)
    found = ~(np.isnan(x) | np.isnan(y))
    x, y = x[found], y[found]
    return np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def _central(sums: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Covariance of change and wanted change, and variance of both, from sums (R, 6) of :func:`_moments`."""
    x, y, xx, yy, xy = (sums[:, 1:] / sums[:, :1]).T
    return xy - x * y, xx - x * x, yy - y * y


def _mean(values: Numbers, seed: int) -> dict[str, Any]:
    return _entry(float(values.mean()), mean_ci(values, seed=seed))


def _statistic(of: Callable[[Numbers], Numbers], groups: int, seed: int) -> dict[str, Any]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return _entry(float(of(np.ones((1, groups)))[0]), bootstrap_ci(of, groups, seed=seed))


def _entry(value: float, ends: tuple[float, float]) -> dict[str, Any]:
    return {"value": round(value, 4), "ci95": [round(end, 4) for end in ends]}


def table(summaries: Mapping[str, dict[str, dict[str, Any]]]) -> str:
    """One row per expert, with the intervals below it."""
    width = max(len(name) for name in summaries) + 2
    lines = [" " * width + "".join(f"{HEADS.get(name, name):>13}" for name in COLUMNS)]
    for name, summary in summaries.items():
        found = [summary.get(column) for column in COLUMNS]
        values = ["" if entry is None else f"{entry['value']:.3f}" for entry in found]
        ends = ["" if entry is None else "{:.2f}–{:.2f}".format(*entry["ci95"]) for entry in found]
        lines += [f"{name:{width}}" + "".join(f"{text:>13}" for text in values)]
        lines += [" " * width + "".join(f"{text:>13}" for text in ends)]
    return "\n".join(lines)


def main() -> None:
    """Measure every expert."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experts", nargs="+", metavar="EXPERT", help="name, folder, or .safetensors of a SyncNet")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--frames", type=int, default=9, help="of the segment of each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("out/teacher_cache"), help="folder of the measured clips")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    teachers = {name: load_teacher(name) for name in options.experts}
    segments = choose_segments(list_clips(options.data), options.clips, options.frames, options.seed)
    options.cache.mkdir(parents=True, exist_ok=True)
    rows = measure_all(teachers, segments, options.cache)
    thresholds = {name: teacher.threshold for name, teacher in teachers.items()}
    summaries = {name: summarise_rows(found, thresholds.get(name), options.seed) for name, found in rows.items()}
    print(table(summaries))
    if options.json:
        settings = {"data": options.data.name, "clips": len(segments), "frames": options.frames, "seed": options.seed}
        report = {**settings, "thresholds": thresholds, "summaries": summaries, "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.json, to_json(report, indent=1))


if __name__ == "__main__":
    main()
