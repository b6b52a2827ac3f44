"""Time of one loss step, forward and backward to the video, compared with Wav2Lip's SyncNet.

    python benchmarks/loss_step.py --json out/loss_step.json

A batch of 16 single windows of 0.2 s (Wav2Lip's loop), and of clips of one second, where windows share frames
(SyncNet processes each of the 21 windows separately); 96 x 96, float32, two threads. The two are timed alternately
and the ratio is computed per pair; median and quartiles are printed. Absolute times are for orientation only.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from syncnet_color import SyncNetColor, wav2lip_sync_loss

from unisync_loss import UniSyncConfig, UniSyncExpert, UniSyncLoss


def timed(step: Callable[[], None]) -> float:
    """Duration of one call in seconds."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def make_steps(expert: UniSyncExpert, batch: int, frames: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Our step and Wav2Lip's, on inputs of equal size."""
    loss = UniSyncLoss(expert)
    syncnet = SyncNetColor().eval().requires_grad_(False)
    video = torch.rand(batch, frames, 3, 96, 96, requires_grad=True)
    steps = frames * 16 // 5
    mel = torch.rand(batch, 80, steps) * 8 - 4

    def ours() -> None:
        loss(video, mel).backward()

    def theirs() -> None:
        starts = range(frames - 4)
        windows = torch.cat([rearrange(video[:, s : s + 5], "b t c h w -> b c t h w") for s in starts])
        mels = torch.cat([mel[:, None, :, s * 16 // 5 : s * 16 // 5 + 16] for s in starts])
        wav2lip_sync_loss(syncnet, mels, windows).backward()

    return ours, theirs


def compare(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> dict[str, object]:
    """Ratio of their time to ours, per pair of measurements."""
    for step in (ours, theirs):
        step()
    pairs = np.array([(timed(ours), timed(theirs)) for _ in range(rounds)])
    quartiles = np.percentile(pairs[:, 1] / pairs[:, 0], [25, 50, 75])
    return {
        "ratio_median": round(float(quartiles[1]), 2),
        "ratio_quartiles": [round(float(quartiles[0]), 2), round(float(quartiles[2]), 2)],
        "ours_ms_median": round(1e3 * float(np.median(pairs[:, 0])), 1),
        "syncnet_ms_median": round(1e3 * float(np.median(pairs[:, 1])), 1),
        "rounds": rounds,
    }


def main() -> None:
    """Time both architectures and both lengths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    report: dict[str, object] = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": 2,
        "batch": options.batch,
    }
    for architecture in ("small", "paper"):
        expert = UniSyncExpert(UniSyncConfig(architecture=architecture))
        for frames in (5, 25):
            rounds = options.rounds if frames == 5 else max(3, options.rounds // 5)
            batch = options.batch if frames == 5 else max(1, options.batch // 4)
            row = compare(*make_steps(expert, batch, frames), rounds)
            report[f"{architecture}_{frames}_frames"] = {"batch": batch, **row}
            ratio = f"{row['ratio_median']} x ours {row['ratio_quartiles']}"
            print(f"{architecture:6} {frames:2} frames, batch {batch}: SyncNet takes {ratio}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
