"""Cost of one loss step, forward and backward to the video, as a share of that of Wav2Lip's SyncNet.

    OMP_NUM_THREADS=1 python benchmarks/loss_step.py --json out/loss_step.json

Batches of single windows of 0.2 s (Wav2Lip's loop) and of clips of 16 frames, where windows share frames (SyncNet
processes each of the 12 windows separately); 96 x 96 pixels, one thread, processor time. In every round, all variants
take a step one after the other, and each time is divided by SyncNet's of that round; the table has the median of the
rounds, the least and the most. SyncNet gets a mel that is already computed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from syncnet_color import SyncNetColor, wav2lip_sync_loss
from torch import Tensor

from unisync_loss import UniSyncLoss, load_expert

Step = Callable[[], Tensor]
PEER = "SyncNet"
AUDIO = {"mel": "mel-rgb", "hubert": "hubert-rgb", "whisper": "whisper-rgb"}


def syncnet_step(video: Tensor, mel: Tensor) -> Step:
    """Wav2Lip's step on every window by itself."""
    syncnet = SyncNetColor().eval().requires_grad_(False)
    starts = range(video.shape[1] - 4)

    def step() -> Tensor:
        windows = torch.cat([rearrange(video[:, s : s + 5], "b t c h w -> b c t h w") for s in starts])
        mels = torch.cat([mel[:, None, :, s * 16 // 5 : s * 16 // 5 + 16] for s in starts])
        return wav2lip_sync_loss(syncnet, mels, windows)

    return step


def audio_steps(name: str, loss: UniSyncLoss, video: Tensor, waveform: Tensor) -> dict[str, Step]:
    """Steps that get a waveform, its features, or its embedding."""
    with torch.no_grad():
        features = loss.expert.prepare_audio(waveform)
    given = features.mT.contiguous() if name == "mel" else features
    embedding = loss.encode_audio(given, video.shape[1])
    return {
        f"{name}, waveform": lambda: loss(video, waveform),
        f"{name}, features": lambda: loss(video, given),
        f"{name}, audio embedding": lambda: loss(video, audio_embedding=embedding),
    }


def make_steps(losses: dict[str, UniSyncLoss], batch: int, frames: int) -> dict[str, Step]:
    """All variants by name, on inputs of one size."""
    video = torch.rand(batch, frames, 3, 96, 96, requires_grad=True)
    waveform = torch.randn(batch, 640 * frames) / 10
    unfolded, loss = load_expert(AUDIO["mel"]).requires_grad_(False), losses["mel"]
    with torch.no_grad():
        mel = unfolded.prepare_audio(waveform).mT.contiguous()
    embedding = loss.encode_audio(mel, frames)

    def in_bfloat16() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(video, audio_embedding=embedding)

    torch._dynamo.reset()  # a graph of an earlier size would make sizes dynamic
    compiled = torch.compile(loss, fullgraph=True)
    steps = {PEER: syncnet_step(video, mel), "mel, features, batch norms": lambda: -unfolded(video, mel).log().mean()}
    for name, each in losses.items():
        steps |= audio_steps(name, each, video, waveform)
    steps["mel, audio embedding, bfloat16"] = in_bfloat16
    steps["mel, audio embedding, compiled"] = lambda: compiled(video, audio_embedding=embedding)
    if frames > 5:
        steps["mel, audio embedding, windows=4"] = lambda: loss(video, audio_embedding=embedding, windows=4)
        steps["mel, audio embedding, grad_frames=4"] = lambda: loss(video, audio_embedding=embedding, grad_frames=4)
    return steps


def timed(step: Step) -> float:
    """Processor time of a step in seconds."""
    started = time.process_time()
    step().backward()
    return time.process_time() - started


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Median, least and most of each step's share of SyncNet's time, over the rounds."""
    for step in steps.values():
        step().backward()
    times = [{name: timed(step) for name, step in steps.items()} for _ in range(rounds)]
    shares = {name: [each[name] / each[PEER] for each in times] for name in steps if name != PEER}
    return {name: [float(np.median(values)), min(values), max(values)] for name, values in shares.items()}


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """The shares as a Markdown table."""
    lines = [f"| step | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    for name in dict.fromkeys(name for shares in results.values() for name in shares):
        cells = [shares.get(name) for shares in results.values()]
        texts = ["" if cell is None else f"{cell[0]:.2f} ({cell[1]:.2f} to {cell[2]:.2f})" for cell in cells]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    """Time all variants in all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[5, 16], help="of a clip")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16, 80], help="clips in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    losses = {name: UniSyncLoss(load_expert(model)) for name, model in AUDIO.items()}
    for loss in losses.values():
        for _ in range(3):  # the calls that check values
            loss(torch.rand(1, 5, 3, 96, 96), torch.randn(1, 3200) / 10)
    results = {}
    for frames, batch in product(options.frames, options.batch):
        name = f"{batch} windows" if frames == 5 else f"{batch} clips of {frames} frames"
        results[name] = measure(make_steps(losses, batch, frames), options.rounds)
        print(table({name: results[name]}), flush=True)
    print(table(results))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"torch": torch.__version__, "shares": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
