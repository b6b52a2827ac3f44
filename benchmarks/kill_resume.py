"""Training killed with SIGKILL at random moments and resumed, compared with an uninterrupted run.

    python benchmarks/kill_resume.py --data FOLDER --out out/kill --kills 10 --json out/kill.json [KEY=VALUE …]

Each process is killed after a random number of steps and a short random time. Settings of `unisync train` may follow.
A small folder is enough, such as one made by `python -m tools.synthetic`. On a CPU the weights must be bitwise equal.
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
from safetensors import safe_open

from unisync_loss import load_expert


def command(options: argparse.Namespace, out: Path, *more: str) -> list[str]:
    """Command line of one training run."""
    fixed = ["--data", options.data, "--val", options.data, "--cache", str(options.out / "cache"), "--out", str(out)]
    settings = ["run.save_minutes=0", f"recipe.steps={options.steps}", "run.val_every=20", "recipe.clips=4"]
    settings += ["data.workers=1", *options.settings]
    return [sys.executable, "-m", "unisync_loss.cli", "train", "--visual", options.visual, *fixed, *more, *settings]


def step_saved(out: Path, steps: int) -> int:
    """Step of the saved state; the total number of steps if the stage has ended."""
    if not (out / "state.safetensors").exists():
        return 0
    with safe_open(out / "state.safetensors", framework="pt") as file:
        place = json.loads(file.metadata()["place"])
    return steps if place["stage"] else int(place["step"])


def main() -> None:
    """Train, kill, resume and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--visual", default="landmarks")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    subprocess.run(command(options, options.out / "whole"), check=True)
    rng, broken, killed = random.Random(options.seed), options.out / "broken", []
    while len(killed) < options.kills and step_saved(broken, options.steps) < options.steps:
        goal = step_saved(broken, options.steps) + rng.uniform(0, 1.5 * options.steps / options.kills)
        process = subprocess.Popen(command(options, broken, "--resume"))
        while process.poll() is None and step_saved(broken, options.steps) < goal:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))  # somewhere within a step, a save or a validation
        process.kill()
        process.wait()
        killed.append(step_saved(broken, options.steps))
    subprocess.run(command(options, broken, "--resume"), check=True)
    ours, theirs = (load_expert(run / "last").state_dict() for run in (broken, options.out / "whole"))
    equal = all(torch.equal(ours[key], theirs[key]) for key in theirs)
    report = {"kills": len(killed), "saved_step_at_kill": killed, "steps": options.steps, "weights_equal": equal}
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(report)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
