"""Accuracy and cost of every released expert on the same clips (the paper's Table IV).

    python benchmarks/pairs.py --data VAL --json out/val.json --settings out/settings.json
    python benchmarks/pairs.py --data TEST --json out/test.json --average mel-rgb+mel-3dmm

Protocol and seeds of `unisync eval`; embeddings are rounded to float16, see `tower_embeddings.py`: an interrupted run
continues. An average has the mean of its experts' probabilities and of their thresholds. Multiply-adds are given for a
single window of five frames and, per window, for a clip of one second, because the small networks share frames between
windows. Those of HuBERT and Whisper are listed separately, per second of audio. Times are medians per window of clips
of one second on two threads, forward and backward to the video, all experts in turn; for orientation only.
`python -m tools.cards` writes the published tables from the results.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tower_embeddings import embed_all

from unisync_loss import UniSyncExpert, UniSyncLoss, list_pretrained, load_expert
from unisync_loss.config import FPS, PARSING_GROUPS, SAMPLE_RATE, WINDOW_FRAMES
from unisync_loss.data import list_clips
from unisync_loss.evaluation import ClipEmbedding, calibration_of, choose_settings, score_pairs, summarise
from unisync_loss.functional import sync_probability
from unisync_loss.utils.files import to_json, write_atomically

BATCH = 8  # clips in a timed step


def mean_probability(audio: Tensor, visual: Tensor) -> Tensor:
    """Mean of the probabilities of k experts: embeddings (n, k, D) and (n, k, D) → (n,)."""
    return sync_probability(audio, visual).mean(-1)


def average(members: list[list[ClipEmbedding]]) -> list[ClipEmbedding]:
    """Clips, embedded by several experts, whose score is the mean of the experts' probabilities."""
    return [
        ClipEmbedding(
            clips[0].entry,
            torch.stack([clip.audio for clip in clips], 1),
            torch.stack([clip.visual for clip in clips], 1),
            clips[0].voiced,
            mean_probability,
        )
        for clips in zip(*members, strict=True)
    ]


def example(expert: UniSyncExpert, batch: int, frames: int) -> tuple[Tensor, Tensor]:
    """Random visual input and audio features for an expert."""
    config = expert.config
    video = {
        "rgb": torch.rand(batch, frames, 3, 96, 96),
        "parsing": torch.softmax(torch.randn(batch, frames, len(PARSING_GROUPS), 96, 96), 2),
        "landmarks": torch.rand(batch, frames, config.visual_features // 2, 2),
        "3dmm": torch.randn(batch, frames, config.visual_features),
    }[config.visual]
    steps = config.first_step(frames - WINDOW_FRAMES) + config.window_steps
    shape = (batch, 80, steps) if config.audio == "mel" else (batch, steps, config.audio_features)
    return video, torch.randn(shape).clamp(-4, 4)  # the range of the mel spectrogram


def multiply_adds(expert: UniSyncExpert, frames: int) -> float:
    """Millions of multiply-adds per window of a clip of ``frames`` frames."""
    video, audio = example(expert, 1, frames)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expert(video, audio)
    return counter.get_total_flops() / 2 / (frames - WINDOW_FRAMES + 1) / 1e6


def encoder_cost(expert: UniSyncExpert) -> dict[str, float]:
    """Parameters of the expert's HuBERT or Whisper and millions of multiply-adds per second of audio; 0 for mel."""
    if expert.config.audio == "mel":
        return {"encoder_parameters": 0, "encoder_multiply_adds_a_second": 0.0}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expert.audio_input(torch.randn(1, 4 * SAMPLE_RATE))
    parameters = sum(parameter.numel() for parameter in expert.audio_input.encoder.network.parameters())
    multiply_adds = counter.get_total_flops() / 2 / 4 / 1e6
    return {"encoder_parameters": parameters, "encoder_multiply_adds_a_second": multiply_adds}


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


def costs(experts: dict[str, UniSyncExpert], rounds: int) -> dict[str, dict[str, float]]:
    """Size and cost of every expert."""
    times = milliseconds(experts, rounds)
    return {
        name: {
            "parameters": sum(parameter.numel() for parameter in expert.parameters()),
            "multiply_adds_alone": multiply_adds(expert, WINDOW_FRAMES),
            "multiply_adds_in_a_second": multiply_adds(expert, FPS),
            **encoder_cost(expert),
            "milliseconds": times[name],
        }
        for name, expert in experts.items()
    }


def line(name: str, report: dict[str, Any]) -> str:
    """Accuracy, AUC and retrieval of one model as text."""
    pairs, found = report["pairs"], report["retrieval"]
    measures = [("accuracy", pairs["accuracy"], pairs["ci95"]), ("AUC", pairs["auc"], pairs["ci95_auc"])]
    measures += [(f"retrieval@{k}", found[k]["accuracy"], found[k]["ci95"]) for k in ("5", "15") if k in found]
    texts = [f"{measure} {value:.3f} [{low:.3f}, {high:.3f}]" for measure, value, (low, high) in measures]
    return f"{name:18} {'  '.join(texts)}"


def main() -> None:
    """Measure every expert, and averages of experts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--label", help="name of the data set in the results; default: that of its folder")
    parser.add_argument("--model", nargs="+", default=list(list_pretrained()))
    parser.add_argument("--average", nargs="+", default=[], metavar="A+B", help="mean probability of these models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the timing; 0 leaves out the costs")
    parser.add_argument("--cache", type=Path, default=Path("out/pairs_cache"), help="folder of the embeddings")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument(
        "--settings", type=Path, help="validation data only: write threshold and calibration of every model"
    )
    options = parser.parse_args()
    members = {name: name.split("+") for name in options.average}
    unknown = sorted({member for names in members.values() for member in names} - set(options.model))
    if unknown:
        parser.error(f"--average: expected names of --model joined by +, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    experts = {name: load_expert(name) for name in options.model}
    found = embed_all(experts, list_clips(options.data), options.cache)
    found |= {name: average([found[member] for member in names]) for name, names in members.items()}
    # the settings are not the best on these clips: the data may be test data
    groups = {name: [name] for name in experts} | members
    configs = {name: [experts[member].config for member in names] for name, names in groups.items()}
    thresholds = {name: statistics.mean(config.threshold for config in each) for name, each in configs.items()}
    calibrations = {name: calibration_of(each) for name, each in configs.items()}
    cost = costs(experts, options.rounds) if options.rounds else {}
    data = {"data": options.label or options.data.resolve().name}
    reports = {
        name: {**data, **summarise(clips, name, thresholds[name], options.seed, calibration=calibrations[name])}
        | ({"cost": cost[name]} if name in cost else {})
        for name, clips in found.items()
    }
    write_json(options.json, reports)
    if options.settings:
        chosen = {name: choose_settings(score_pairs(clips, options.seed)) for name, clips in found.items()}
        write_json(options.settings, chosen)
    print("\n".join(line(name, report) for name, report in reports.items()))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file, in a folder that is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json(content, indent=1))


if __name__ == "__main__":
    main()
