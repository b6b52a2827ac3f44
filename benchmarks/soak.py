"""Memory, open files and speed over thousands of loss steps of changing shapes, and one `unisync score` of many files.

    OMP_NUM_THREADS=1 python benchmarks/soak.py --steps 5000 --files 500 --json out/soak.json

Each loss step has a batch, a length, a size of the pictures and options of its own, drawn from the seed, and a backward
pass. The files are copies of one drawn clip of 1.5 s. Resident memory and open files are those of this process for the
steps, and the sum over all processes of the command for the files. Speed is processor time; for the steps also as a
ratio to work that is always the same, done between them, because a busy machine slows both. Each is read at the
beginning (after a warm-up), the middle and the end. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tools.synthetic.clip import synthesize_clip
from unisync_loss import UniSyncLoss, load_expert
from unisync_loss.data import write_clip

EXPERTS = ("mel-landmarks", "mel-rgb")
PHASES = ("begin", "middle", "end")


def step(loss: UniSyncLoss, rng: np.random.Generator) -> None:
    """One forward and backward pass of a shape of its own."""
    batch, frames, size = (int(rng.integers(*bounds)) for bounds in ((1, 4), (5, 14), (24, 65)))
    rgb = loss.expert.config.visual == "rgb"
    video = torch.rand(batch, frames, 3, size, size) if rgb else 200 * torch.rand(batch, frames, 68, 2)
    video.requires_grad_()
    audio = torch.randn(batch, 640 * frames + int(rng.integers(0, 640))).div(10).clamp(-1, 1)
    options: dict[str, Any] = {"windows": 1} if rng.random() < 0.3 else {"stride": int(rng.integers(1, 4))}
    if rng.random() < 0.3:
        options["mask"] = torch.rand(batch, frames) < 0.9
    loss(video, audio, **options).backward()


def reference() -> None:
    """Work that is always the same, whose time says how busy the machine is."""
    images = torch.ones(4, 16, 48, 48)
    for _ in range(4):
        images = functional.conv2d(images, torch.full((16, 16, 3, 3), 1e-3), padding=1)


def soak_loss(name: str, steps: int, seed: int) -> dict[str, dict[str, float]]:
    """Take steps; what was read in each phase."""
    rng, loss = np.random.default_rng(seed), UniSyncLoss(load_expert(name))
    torch.manual_seed(seed)
    span = max(1, steps // 10)
    starts, rows = (0, (steps - span) // 2 - span, steps - 2 * span), {}
    for phase, start, more in zip(PHASES, starts, (*starts[1:], steps), strict=True):
        for _ in range(span):  # not timed: of the first ones, some allocate what stays
            step(loss, rng)
        spent = np.zeros(2)
        for _ in range(span):
            began = time.process_time()
            step(loss, rng)
            between = time.process_time()
            reference()
            spent += between - began, time.process_time() - between
        own_ms, other_ms = 1000 * spent / span
        rows[phase] = {
            "ms_per_step": round(own_ms, 2),
            "reference_ms": round(other_ms, 2),
            "ratio": round(own_ms / other_ms, 2),
            **usage(os.getpid()),
        }
        for _ in range(more - start - 2 * span):
            step(loss, rng)
    return rows


def usage(session: int) -> dict[str, float]:
    """Resident memory and open files of a process, or of all processes of the session that it leads."""
    memory = handles = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) == session or os.getsid(int(entry.name)) == session != os.getsid(0):
                status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
                memory += int(status["VmRSS"].split()[0])
                handles += len(os.listdir(entry / "fd"))
        except (OSError, KeyError):  # it has ended
            continue
    return {"resident_mib": round(memory / 1024, 1), "open_files": handles}


def soak_score(folder: Path, files: int, model: str) -> dict[str, Any]:
    """Score copies of a clip in one command; what was read in each phase, and the rows of the result."""
    clips = folder / "clips"
    clips.mkdir()
    drawn = synthesize_clip(1, seconds=1.5, speaker_seed=1)
    write_clip(clips / "clip-00000.mp4", drawn.frames, drawn.waveform)
    for number in range(1, files):
        shutil.copy(clips / "clip-00000.mp4", clips / f"clip-{number:05}.mp4")
    command = [sys.executable, "-m", "unisync_loss.cli", "score", str(clips), "--model", model]
    command += ["--csv", str(folder / "scores.csv")]
    samples: list[tuple[int, float, dict[str, float]]] = []
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        opened = clip_opened(process.pid)
        if opened is not None and (not samples or opened > samples[-1][0]):
            samples.append((opened, processor_seconds(process.pid), usage(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"unisync score ended with status {process.returncode}")
    rows = {}
    for phase, middle in zip(PHASES, (0.1, 0.5, 0.9), strict=True):
        near = [sample for sample in samples if abs(sample[0] / files - middle) <= 0.1]
        (first, start, _), (last, end, _) = near[0], near[-1]
        rows[phase] = {
            "cpu_s_per_file": round((end - start) / (last - first), 3),
            **{key: round(float(np.median([sample[2][key] for sample in near])), 1) for key in near[0][2]},
        }
    lines = (folder / "scores.csv").read_text(encoding="utf-8").splitlines()[1:]
    different = {re.sub(r"clip-\d+", "", line) for line in lines}
    return {"model": model, "files": files, "rows": len(lines), "different_rows": len(different), **rows}


def clip_opened(session: int) -> int | None:
    """Largest number of a clip that a process of the session holds open."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == session:
                targets = [os.readlink(handle) for handle in (entry / "fd").iterdir()]
                numbers += [int(found[1]) for target in targets if (found := re.search(r"clip-(\d+)\.mp4$", target))]
        except OSError:  # it has ended, or closed the file
            continue
    return max(numbers, default=None)


def processor_seconds(session: int) -> float:
    """Processor time of all processes of a session that still run."""
    total = 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == session:
                values = (entry / "stat").read_text().rpartition(")")[2].split()
                total += (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return total


def main() -> None:
    """Take the steps, score the files, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--files", type=int, default=500, help="0: the steps only")
    parser.add_argument("--model", default="mel-rgb", help="of the command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"steps": options.steps, "seed": options.seed}
    for name in EXPERTS:
        report[name] = soak_loss(name, options.steps, options.seed)
        print(name, json.dumps(report[name]), flush=True)
    if options.files:
        with tempfile.TemporaryDirectory() as folder:
            report["score"] = soak_score(Path(folder), options.files, options.model)
        print("score", json.dumps(report["score"]), flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
