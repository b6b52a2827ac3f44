"""Accuracy and cost of every released expert on the same clips (the paper's Table IV).

    python benchmarks/pairs.py --data TEST --json out/pairs.json --markdown out/pairs.md

Protocol and seeds of `unisync eval`. Each clip is decoded, and its face mesh computed, once for all experts.
Multiply-adds are given for a single window of five frames and, per window, for a clip of one second, because the
small networks share frames between windows. Those of HuBERT and Whisper are listed separately, per second of audio.
Times are medians per window of clips of one second on two threads, forward and backward to the video, all experts in
turn; for orientation only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unisync_loss import UniSyncExpert, UniSyncLoss, list_pretrained, load_expert
from unisync_loss.config import FPS, PARSING_GROUPS, SAMPLE_RATE, WINDOW_FRAMES
from unisync_loss.data import list_clips, load_clip
from unisync_loss.evaluation import ClipEmbedding, embed_video, summarise
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress
from unisync_loss.video.extraction import visual_of_mesh
from unisync_loss.video.face_mesh import face_mesh, fill_gaps

BATCH = 8  # clips in a timed step


def embed_all(experts: dict[str, UniSyncExpert], data: Path) -> dict[str, list[ClipEmbedding]]:
    """Embeddings of every clip that shows a face, by expert."""
    found: dict[str, list[ClipEmbedding]] = {name: [] for name in experts}
    entries = list_clips(data)
    progress = Progress(partial(print, file=sys.stderr), len(entries), "clips")
    for done, entry in enumerate(entries, 1):
        clip = load_clip(entry)
        try:
            mesh = fill_gaps(face_mesh(clip.frames, depth=True))
        except ValueError as error:  # skipped for every expert, so that all are measured on the same clips
            print(f"skipped {entry.name}: {error}", file=sys.stderr)
            continue
        for name, expert in experts.items():
            if not expert.visual_input.needs_mesh:
                video = rearrange(torch.from_numpy(clip.frames), "t h w c -> 1 t c h w")
            else:
                video = visual_of_mesh(expert.config, mesh, clip.frames.shape[1:3])
            found[name].append(embed_video(expert, entry, video, clip.waveform))
        progress.update(done)
    return found


def example(expert: UniSyncExpert, batch: int, frames: int) -> tuple[Tensor, Tensor]:
    """Random visual input and audio features for an expert."""
    config = expert.config
    video = {
        "rgb": torch.rand(batch, frames, 3, 96, 96),
        "parsing": torch.softmax(torch.randn(batch, frames, len(PARSING_GROUPS), 96, 96), 2),
        "landmarks": torch.rand(batch, frames, config.visual_features // 2, 2),
        "3dmm": torch.randn(batch, frames, config.visual_features),
    }[config.visual]
    steps = int((frames - WINDOW_FRAMES) * config.steps_per_frame) + config.window_steps
    shape = (batch, 80, steps) if config.audio == "mel" else (batch, steps, config.audio_features)
    return video, torch.randn(shape)


def multiply_adds(expert: UniSyncExpert, frames: int) -> float:
    """Millions of multiply-adds per window of a clip of ``frames`` frames."""
    video, audio = example(expert, 1, frames)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expert(video, audio)
    return counter.get_total_flops() / 2 / (frames - WINDOW_FRAMES + 1) / 1e6


def encoder_cost(expert: UniSyncExpert) -> float:
    """Millions of multiply-adds of the expert's HuBERT or Whisper per second of audio; 0 for mel."""
    if expert.config.audio == "mel":
        return 0.0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expert.audio_input(torch.randn(1, 4 * SAMPLE_RATE))
    return counter.get_total_flops() / 2 / 4 / 1e6


def milliseconds(experts: dict[str, UniSyncExpert], rounds: int) -> dict[str, float]:
    """Median time of a loss step per window on two threads, all experts in turn."""
    torch.set_num_threads(2)
    inputs = {name: example(expert, BATCH, FPS) for name, expert in experts.items()}
    losses = {name: UniSyncLoss(expert) for name, expert in experts.items()}
    times: dict[str, list[float]] = {name: [] for name in experts}
    for turn in range(rounds + 1):
        for name, loss in losses.items():
            video, audio = inputs[name][0].clone().requires_grad_(), inputs[name][1]
            started = time.perf_counter()
            loss(video, audio).backward()
            if turn:  # the first is a warm-up
                times[name].append(time.perf_counter() - started)
    windows = BATCH * (FPS - WINDOW_FRAMES + 1)
    return {name: 1000 * statistics.median(values) / windows for name, values in times.items()}


def row(name: str, report: dict[str, Any]) -> str:
    """One row of the table."""
    pairs, found, cost = report["pairs"], report["retrieval"], report["cost"]

    def with_interval(value: float, interval: list[float]) -> str:
        return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"

    cells = [
        f"`{name}`",
        with_interval(pairs["accuracy"], pairs["ci95"]),
        with_interval(pairs["auc"], pairs["ci95_auc"]),
        *(with_interval(found[k]["accuracy"], found[k]["ci95"]) for k in ("5", "15")),
        f"{cost['parameters'] / 1e6:.2f} M",
        f"{cost['multiply_adds_alone']:.1f} M",
        f"{cost['multiply_adds_in_a_second']:.1f} M",
        f"{cost['milliseconds']:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = ("expert", "accuracy", "AUC", "retrieval@5", "retrieval@15", "parameters", "alone", "in one second", "ms")
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def main() -> None:
    """Measure every expert and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=list(list_pretrained()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the timing")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    experts = {name: load_expert(name) for name in options.model}
    embedded = embed_all(experts, options.data)
    times = milliseconds(experts, options.rounds)
    reports = {}
    for name, expert in experts.items():
        cost = {
            "parameters": sum(parameter.numel() for parameter in expert.parameters()),
            "multiply_adds_alone": multiply_adds(expert, WINDOW_FRAMES),
            "multiply_adds_in_a_second": multiply_adds(expert, FPS),
            "encoder_multiply_adds_a_second": encoder_cost(expert),
            "milliseconds": times[name],
        }
        reports[name] = {**summarise(embedded[name], name, expert.config.threshold, options.seed), "cost": cost}
    table = "\n".join([HEADER, *(row(name, report) for name, report in reports.items())])
    for path, text in ((options.json, json.dumps(reports, indent=1)), (options.markdown, table)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text + "\n")
    print(f"\n{table}")


if __name__ == "__main__":
    main()
