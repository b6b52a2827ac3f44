"""Demonstration: one small generator, trained twice on one clip, without and with the sync loss.

Both trainings share seed, initial weights, data order and number of steps; the loss is the only difference. Measures
are taken on frames later in the clip than all training frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.demo.clip import DemoClip, load_demo_clip
from unisync_loss.demo.generator import (
    SYNC_WEIGHT,
    LipGenerator,
    generate,
    lower_half,
    motion_correlation,
    train_generator,
)
from unisync_loss.demo.report import write_report
from unisync_loss.demo.results import LABELS, DemoResult, RunResult, mean_over_time
from unisync_loss.demo.scorer import ExpertScorer
from unisync_loss.loss import UniSyncLoss
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import ASSETS
from unisync_loss.utils.plotting import new_figure
from unisync_loss.utils.progress import Progress

logger = logging.getLogger(__name__)
DEFAULT_CLIP = ASSETS / "demo.mp4"
SHIFT = 5  # frames of the control that must score lower
STEPS = 240
_CHECKS = 12  # number of times that held-out frames are scored during training
_SYNC_COST = 1.6  # time of a step with the sync loss, relative to one without; for the time left
_LATE = (
    "The expert estimates that the clip's own audio is {0:+d} frames ({1:+d} ms) late, so both trainings use pairs out "
    "of sync. Correct it first (unisync align)."
)


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
        video: a clip of one face of at least 3.5 s; None takes the bundled one.
        out: folder for ``report.html``, ``demo.mp4``, ``demo.json`` and figures; made where missing.
        expert: on RGB, on the CPU.
        seed: the same seed gives the same numbers on the same machine.
        steps: of each training; None takes 240, about three minutes on two cores.
        log: takes lines of progress.

    Raises:
        ValueError: for a clip or an expert that cannot be used, or fewer than one step.
        ImportError: without matplotlib.
        FileNotFoundError: when the clip does not exist.
    """
    start = time.monotonic()
    steps = STEPS if steps is None else steps
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    new_figure(1, 1)  # a missing matplotlib is an error before the trainings, not after
    video = DEFAULT_CLIP if video is None else Path(video)
    clip = load_demo_clip(video, expert.eval())
    out.mkdir(parents=True, exist_ok=True)
    scorer, progress = ExpertScorer(expert, clip), Progress(log, (1 + _SYNC_COST) * steps)
    runs: dict[str, RunResult] = {}
    videos = {"truth": clip.frames[clip.held.start :]}
    for run in ("reconstruction", "unisync"):
        runs[run], videos[run] = train_and_measure(run, clip, scorer, steps, seed, progress)
    result = score_videos(video.name, clip, scorer, runs, videos, seed=seed, seconds=time.monotonic() - start)
    log("writing the report")
    write_report(result, videos, clip.waveform[clip.held.start * SAMPLES_PER_FRAME :], out)
    return result


def train_and_measure(
    run: str, clip: DemoClip, scorer: ExpertScorer, steps: int, seed: int, progress: Progress
) -> tuple[RunResult, Tensor]:
    """Train one generator and measure it.

    Returns:
        The result, and the generated held-out frames (T, 3, 96, 96).
    """
    start = time.monotonic()
    check_steps: list[int] = []
    check_probability: list[float] = []

    def on_step(step: int, generator: LipGenerator) -> None:
        if step % max(1, steps // _CHECKS) == 0 or step == steps:
            check_steps.append(step)
            check_probability.append(float(scorer.probability(generate(generator, clip)).mean()))
        done = step if run == "reconstruction" else steps + _SYNC_COST * step
        probability = f", probability {check_probability[-1]:.2f}" if check_probability else ""
        progress.update(done, f"{LABELS[run]}: step {step}/{steps}{probability}")

    sync_loss = UniSyncLoss(scorer.expert) if run == "unisync" else None
    generator, reconstruction, sync = train_generator(clip, steps, seed, sync_loss, on_step)
    generated, shifted = generate(generator, clip), generate(generator, clip, late=SHIFT)
    truth = clip.frames[clip.held.start :]
    error = lower_half(generated - truth)
    result = RunResult(
        seconds=time.monotonic() - start,
        l1=float(error.abs().mean()),
        psnr=float(-10 * error.square().mean().clamp(min=1e-12).log10()),
        mouth_correlation=motion_correlation(generated, truth),
        mouth_correlation_shifted=motion_correlation(shifted, truth),
        offset_frames=scorer.offset(generated, clip.held.start),
        reconstruction=reconstruction,
        sync=sync,
        check_steps=check_steps,
        check_probability=check_probability,
    )
    return result, generated


def score_videos(
    name: str,
    clip: DemoClip,
    scorer: ExpertScorer,
    runs: dict[str, RunResult],
    videos: dict[str, Tensor],
    *,
    seed: int,
    seconds: float,
) -> DemoResult:
    """Score every video of the held-out part with the expert, and gather the results."""
    series = {
        "truth": scorer.probability(videos["truth"]),
        "truth_shifted": torch.cat([scorer.probability(videos["truth"], late) for late in (-SHIFT, SHIFT)]),
        "reconstruction": scorer.probability(videos["reconstruction"]),
        "unisync": scorer.probability(videos["unisync"]),
        "unisync_shifted": scorer.probability(videos["unisync"], SHIFT),
    }
    values = {key: probability.double().numpy() for key, probability in series.items()}
    offset, config = scorer.offset(clip.frames, 0), scorer.expert.config
    return DemoResult(
        clip=name,
        expert=f"{config.name} ({config.architecture})",
        seed=seed,
        steps=len(runs["unisync"].reconstruction),
        sync_weight=SYNC_WEIGHT,
        parameters=sum(parameter.numel() for parameter in LipGenerator().parameters()),
        frames=len(clip.frames),
        train=(clip.train.start, clip.train.stop),
        held=(clip.held.start, clip.held.stop),
        probability={key: mean_over_time(value, seed) for key, value in values.items()},
        gain=mean_over_time(values["unisync"] - values["reconstruction"], seed),
        truth_offset_frames=offset,
        runs=runs,
        series={key: value.tolist() for key, value in values.items()},
        seconds=seconds,
        notes=[_LATE.format(offset, offset * 1000 // FPS)] if abs(offset) > 1 else [],
    )
