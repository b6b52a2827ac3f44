"""Demonstration: one small generator, trained twice on one clip, without and with the sync loss.

Both trainings share the seed, the first weights, the order of the data and the number of steps; the sync loss is the
only difference. Measures are taken on frames later in the clip than all training frames.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.demo_generator import (
    SYNC_WEIGHT,
    LipGenerator,
    generate,
    lower_half,
    motion_correlation,
    train_generator,
)
from unisync_loss.demo_judge import Judge, Measure, bootstrap
from unisync_loss.demo_material import Material, load_material
from unisync_loss.expert import UniSyncExpert
from unisync_loss.loss import UniSyncLoss
from unisync_loss.progress import Pace
from unisync_loss.report import new_figure, write_report
from unisync_loss.report_page import LABELS

logger = logging.getLogger(__name__)
DEFAULT_CLIP = Path(__file__).parent / "assets" / "demo.mp4"
SHIFT = 5  # frames of the control that must score lower
STEPS = 240
CHECKS = 12  # number of times that held-out frames are measured during training
SYNC_COST = 1.6  # time of a step with the sync loss, relative to one without

RUNS = ("reconstruction", "unisync")
LATE = (
    "The expert finds the clip's own audio {0:+d} frames ({1:+d} ms) late: both trainings learn from pairs out "
    "of sync. Correct it first (unisync align)."
)


@dataclass(frozen=True)
class RunResult:
    """One training and its measures on held-out frames.

    Attributes:
        seconds: duration of the training.
        l1: mean absolute error of the lower half.
        psnr: the same in dB.
        mouth_correlation: over time, of the mouth's motion with that of the true frames.
        mouth_correlation_shifted: the same with the generator driven by audio that is 5 frames late.
        offset_frames: estimated, positive = audio is late.
        reconstruction: L1 of each step.
        sync: sync loss of each step, empty where it was not trained with.
        check_steps: steps at which held-out frames were measured.
        check_probability: their mean probability; no choice depends on it.
    """

    seconds: float
    l1: float
    psnr: float
    mouth_correlation: float
    mouth_correlation_shifted: float
    offset_frames: int
    reconstruction: list[float]
    sync: list[float]
    check_steps: list[int]
    check_probability: list[float]


@dataclass(frozen=True)
class DemoResult:
    """Measures of the demonstration; ``demo.json`` holds them.

    Attributes:
        clip: name of the clip.
        expert: representations and architecture of the expert.
        seed: of weights and data order.
        steps: of each training.
        sync_weight: full weight of the sync loss.
        parameters: of the generator.
        frames: of the clip, with ``train`` and ``held`` as [first, last) frames.
        probability: of held-out windows: ``truth``, ``truth_shifted``, ``reconstruction``, ``unisync`` and
            ``unisync_shifted``.
        gain: ``unisync`` minus ``reconstruction``, per window.
        truth_offset_frames: estimated on the whole clip, positive = audio is late.
        runs: by name, ``reconstruction`` and ``unisync``.
        series: probability of every held-out window, for the plots.
        seconds: total duration.
        notes: warnings about the clip.
    """

    clip: str
    expert: str
    seed: int
    steps: int
    sync_weight: float
    parameters: int
    frames: int
    train: tuple[int, int]
    held: tuple[int, int]
    probability: dict[str, Measure]
    gain: Measure
    truth_offset_frames: int
    runs: dict[str, RunResult]
    series: dict[str, list[float]]
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def learnt(self) -> bool:
        """Whether the gain is above zero with confidence, and late audio scores lower."""
        sensitive = self.probability["unisync"].mean > self.probability["unisync_shifted"].mean
        return self.gain.low > 0 and sensitive

    def table(self) -> str:
        """Return the measures as lines of text, the verdict last."""
        rows = [f"{'held-out sync probability':<40}{'mean':>6}  95 % interval"]
        for name, measure in self.probability.items():
            rows.append(f"  {LABELS[name]:<38}{measure.mean:>6.3f}  {measure.low:.3f} to {measure.high:.3f}")
        rows.append(f"  {'gain':<38}{self.gain.mean:>+6.3f}  {self.gain.low:+.3f} to {self.gain.high:+.3f}")
        rows += self.notes
        rows.append(
            "the lips learnt to move in time" if self.learnt else "no sure gain from the sync loss on this clip"
        )
        return "\n".join(rows)

    def to_json(self) -> str:
        """Return the result as JSON text."""
        return json.dumps({**asdict(self), "learnt": self.learnt}, indent=2) + "\n"


def run_one(run: str, material: Material, judge: Judge, steps: int, seed: int, pace: Pace) -> tuple[RunResult, Tensor]:
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
        pace.tell(done, f"{LABELS[run]}: step {step}/{steps}{note}")

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
    progress: Callable[[str], None] = logger.info,
) -> DemoResult:
    """Train both generators, measure them on held-out frames and write the report.

    Args:
        video: a clip of one face of at least 3.5 s; None takes the one that comes with the library.
        out: folder for ``report.html``, ``demo.mp4``, ``demo.json`` and pictures; made where missing.
        expert: on RGB, on the CPU.
        seed: the same seed gives the same numbers on the same machine.
        steps: of each training; None takes 240, some three minutes on two cores.
        progress: takes lines of text.

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
    judge, pace = Judge(expert, material), Pace(progress, (1 + SYNC_COST) * steps)
    runs: dict[str, RunResult] = {}
    videos = {"truth": material.frames[material.held.start :]}
    for run in RUNS:
        runs[run], videos[run] = run_one(run, material, judge, steps, seed, pace)
    result = summarise(video.name, material, judge, runs, videos, seed=seed, seconds=time.monotonic() - start)
    progress("writing the report")
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
        probability={name: bootstrap(value, seed) for name, value in values.items()},
        gain=bootstrap(values["unisync"] - values["reconstruction"], seed),
        truth_offset_frames=late,
        runs=runs,
        series={name: value.tolist() for name, value in values.items()},
        seconds=seconds,
        notes=[LATE.format(late, late * 1000 // FPS)] if abs(late) > 1 else [],
    )
