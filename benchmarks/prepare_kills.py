"""``unisync prepare`` killed at random moments and restarted, compared with an uninterrupted run.

    python benchmarks/prepare_kills.py --kills 20 --json prepare_kills.json

Each time, a new store is started, the program is killed (SIGKILL; its two workers exit with it) at a random moment
within the duration of a complete run, and started once more. Shards and manifest are compared byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisync_loss.data import prepare, write_clip

INPUTS = 12
SHARD_BYTES = 100_000  # two or three inputs
FRAMES = 40


def main() -> None:
    """Kill, restart and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so that this process can be forked
    rng = random.Random(arguments.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_inputs(root / "in")
        prepare([root / "in"], root / "first", shard_bytes=SHARD_BYTES)  # starts the server that forks the workers
        whole_s = run(root / "in", root / "whole", None)
        expected = contents(root / "whole")
        for number in range(arguments.kills):
            store, moment = root / f"killed{number}", rng.uniform(0, whole_s)
            run(root / "in", store, moment)
            left = len(list(store.glob("shards/*.jsonl"))), len(list(store.glob("parts/*.json")))
            run(root / "in", store, None)
            rows.append({"moment": round(moment / whole_s, 3), "shards": left[0], "parts": left[1]})
            rows[-1]["same"] = contents(store) == expected
            print(rows[-1], flush=True)
    print(f"{sum(row['same'] for row in rows)} of {len(rows)} stores equal the uninterrupted one")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def make_inputs(folder: Path) -> None:
    """Write small videos with a face in a known place."""
    noise = np.random.default_rng(0)
    for number in range(INPUTS):
        home = folder / f"speaker{number % 3}"
        home.mkdir(parents=True, exist_ok=True)
        frames = np.broadcast_to(noise.integers(60, 190, (12, 12, 3)), (FRAMES, 12, 12, 3)).astype(np.uint8)
        sound = noise.uniform(-0.5, 0.5, FRAMES * 640).astype(np.float32)
        write_clip(home / f"{number}.mp4", np.kron(frames, np.ones((1, 8, 8, 1), np.uint8)), sound)
        landmarks = np.array([[20, 20], [76, 76], [48, 60]], np.float32)
        np.save(home / f"{number}.landmarks.npy", np.broadcast_to(landmarks, (FRAMES, 3, 2)))


def run(source: Path, store: Path, moment: float | None) -> float:
    """Prepare in a separate process, killed after ``moment`` seconds; returns its duration in seconds."""
    started = time.monotonic()
    process = os.fork()
    if not process:
        # the server is a child of this process; Python would wait for it in the fork
        forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
        prepare([source], store, shard_bytes=SHARD_BYTES, workers=2)
        os._exit(0)
    if moment is not None:
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if status and moment is None:
        raise SystemExit(f"unisync prepare ended with status {status}")
    return time.monotonic() - started


def contents(store: Path) -> dict[str, Any]:
    """Hashes of the files of the store, without lock and temporary files."""
    files = {path.name: path for path in (*store.glob("shards/*"), *store.glob("*.json*"))}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


if __name__ == "__main__":
    main()
