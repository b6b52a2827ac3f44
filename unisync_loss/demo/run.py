"""Demonstration: one small generator, trained twice on one clip, without and with the sync loss.

Both trainings share the seed, the first weights, the order of the data and the number of steps; the sync loss is the
only difference. Measures are taken on frames later in the clip than all training frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.demo.clip import Material, load_material
from unisync_loss.demo.figures import write_report
from unisync_loss.demo.generator import (
    SYNC_WEIGHT,
    LipGenerator,
    generate,
    lower_half,
    motion_correlation,
    train_generator,
)
from unisync_loss.demo.judge import Judge, mean_over_time
from unisync_loss.demo.results import LABELS, DemoResult, RunResult
from unisync_loss.loss import UniSyncLoss
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import ASSETS
from unisync_loss.utils.plotting import new_figure
from unisync_loss.utils.progress import Progress

logger = logging.getLogger(__name__)
DEFAULT_CLIP = ASSETS / "demo.mp4"
SHIFT = 5  # frames of the control that must score lower
STEPS = 240
CHECKS = 12  # number of times that held-out frames are measured during training
SYNC_COST = 1.6  # time of a step with the sync loss, relative to one without

RUNS = ("reconstruction", "unisync")
LATE = (
    "The expert finds the clip's own audio {0:+d} frames ({1:+d} ms) late: both trainings learn from pairs out "
    "of sync. Correct it first (unisync align)."
)


def run_one(
    run: str, material: Material, judge: Judge, steps: int, seed: int, progress: Progress
) -> tuple[RunResult, Tensor]:
    """Train once and measure the held-out frames.

    Returns:
        The result and the held-out frames as generated, (T, 3, 96, 96).
    """
    start = time.monotonic()
    check_steps: list[int] = []
    check_probability: list[float] = []

    def each(step: int, generator: LipGenerator) -> None:
        if step % max(1, steps // CHECKS) == 0 or step == steps:
            check_steps.append(step)
            check_probability.append(float(judge.probability(generate(generator, material)).mean()))
        done = step if run == "reconstruction" else steps + SYNC_COST * step
        note = f", probability {check_probability[-1]:.2f}" if check_probability else ""
        progress.update(done, f"{LABELS[run]}: step {step}/{steps}{note}")

    sync_loss = UniSyncLoss(judge.expert) if run == "unisync" else None
    generator, reconstruction, sync = train_generator(material, steps, seed, sync_loss, each)
    drawn, shifted = generate(generator, material), generate(generator, material, late=SHIFT)
    truth = material.frames[material.held.start :]
    error = lower_half(drawn - truth)
    result = RunResult(
        seconds=time.monotonic() - start,
        l1=float(error.abs().mean()),
        psnr=float(-10 * error.square().mean().clamp(min=1e-12).log10()),
        mouth_correlation=motion_correlation(drawn, truth),
        mouth_correlation_shifted=motion_correlation(shifted, truth),
        offset_frames=judge.offset(drawn, material.held.start),
        reconstruction=reconstruction,
        sync=sync,
        check_steps=check_steps,
        check_probability=check_probability,
    )
    return result, drawn


def run_demo(
    video: Path | None,
    out: Path,
    expert: UniSyncExpert,
    *,
    seed: int = 0,
    steps: int | None = None,
    log: Callable[[str], None] = logger.info,
) -> DemoResult:
    """Train both generators, measure them on held-out frames and write the report.

    Args:
        video: a clip of one face of at least 3.5 s; None takes the one that comes with the library.
        out: folder for ``report.html``, ``demo.mp4``, ``demo.json`` and pictures; made where missing.
        expert: on RGB, on the CPU.
        seed: the same seed gives the same numbers on the same machine.
        steps: of each training; None takes 240, some three minutes on two cores.
        log: takes lines of progress.

    Raises:
        ValueError: for a clip or an expert that cannot be used, or fewer than one step.
        ImportError: without matplotlib.
        FileNotFoundError: when there is no such clip.
    """
    start = time.monotonic()
    steps = STEPS if steps is None else steps
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    new_figure(1, 1)  # a missing matplotlib is an error before the trainings rather than after them
    video = DEFAULT_CLIP if video is None else Path(video)
    material = load_material(video, expert.eval())
    out.mkdir(parents=True, exist_ok=True)
    judge, progress = Judge(expert, material), Progress(log, (1 + SYNC_COST) * steps)
    runs: dict[str, RunResult] = {}
    videos = {"truth": material.frames[material.held.start :]}
    for run in RUNS:
        runs[run], videos[run] = run_one(run, material, judge, steps, seed, progress)
    result = summarise(video.name, material, judge, runs, videos, seed=seed, seconds=time.monotonic() - start)
    log("writing the report")
    write_report(result, videos, material.waveform[material.held.start * SAMPLES_PER_FRAME :], out)
    return result


def summarise(
    clip: str,
    material: Material,
    judge: Judge,
    runs: dict[str, RunResult],
    videos: dict[str, Tensor],
    *,
    seed: int,
    seconds: float,
) -> DemoResult:
    """Score every version of the held-out frames with the expert."""
    series = {
        "truth": judge.probability(videos["truth"]),
        "truth_shifted": torch.cat([judge.probability(videos["truth"], late) for late in (-SHIFT, SHIFT)]),
        "reconstruction": judge.probability(videos["reconstruction"]),
        "unisync": judge.probability(videos["unisync"]),
        "unisync_shifted": judge.probability(videos["unisync"], SHIFT),
    }
    values = {name: probability.double().numpy() for name, probability in series.items()}
    late, config = judge.offset(material.frames, 0), judge.expert.config
    return DemoResult(
        clip=clip,
        expert=f"{config.name} ({config.architecture})",
        seed=seed,
        steps=len(runs["unisync"].reconstruction),
        sync_weight=SYNC_WEIGHT,
        parameters=sum(parameter.numel() for parameter in LipGenerator().parameters()),
        frames=len(material.frames),
        train=(material.train.start, material.train.stop),
        held=(material.held.start, material.held.stop),
        probability={name: mean_over_time(value, seed) for name, value in values.items()},
        gain=mean_over_time(values["unisync"] - values["reconstruction"], seed),
        truth_offset_frames=late,
        runs=runs,
        series={name: value.tolist() for name, value in values.items()},
        seconds=seconds,
        notes=[LATE.format(late, late * 1000 // FPS)] if abs(late) > 1 else [],
    )
