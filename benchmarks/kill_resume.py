"""Kill a training with SIGKILL at random moments, resume it, and compare its weights with an undisturbed run's.

    python benchmarks/kill_resume.py --data FOLDER --out out/kill --kills 10 --json out/kill.json [KEY=VALUE …]

Every process is killed after a random time, the first steps included; settings may follow as of `unisync train`. A
small folder will do, such as `examples/make_synthetic_clips.py` makes. On a CPU the weights must be equal, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import torch

from unisync_loss.pretrained import load_expert


def command(options: argparse.Namespace, out: Path, *more: str) -> list[str]:
    """The training of one run."""
    fixed = ["--data", options.data, "--val", options.data, "--cache", str(options.out / "cache"), "--out", str(out)]
    settings = ["save_minutes=0", f"steps={options.steps}", "val_every=20", "clips=4", "workers=1", *options.settings]
    return [sys.executable, "-m", "unisync_loss.cli", "train", "--visual", options.visual, *fixed, *more, *settings]


def step_reached(out: Path) -> int:
    """Last step in the log."""
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines() if (out / "log.jsonl").exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def main() -> None:
    """Train, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--visual", default="landmarks")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    started = time.monotonic()
    subprocess.run(command(options, options.out / "whole"), check=True)
    seconds, draw = time.monotonic() - started, random.Random(options.seed)
    broken, killed = options.out / "broken", []
    while len(killed) < options.kills:
        process = subprocess.Popen(command(options, broken, "--resume"))
        try:
            process.wait(timeout=draw.uniform(0.3, 1.0) * seconds)
            break  # it came to its end before it could be killed so often
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed.append(step_reached(broken))
    subprocess.run(command(options, broken, "--resume"), check=True)
    ours, theirs = (load_expert(run / "last").state_dict() for run in (broken, options.out / "whole"))
    equal = all(torch.equal(ours[key], theirs[key]) for key in theirs)
    report = {"kills": len(killed), "logged_step_at_kill": killed, "steps": options.steps, "weights_equal": equal}
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(report)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
