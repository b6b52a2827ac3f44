"""The demonstration: one small generator, trained twice on one clip, without and with the sync loss.

Both trainings share the seed, the first weights, the order of the data and the number of steps; the sync loss is the
only difference. What is measured lies later in the clip than everything that was trained on.

Axes: T frames, W windows of 5 frames.
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
    Generator,
    generate,
    made_part,
    motion_correlation,
    new_generator,
    train_generator,
)
from unisync_loss.demo_judge import Judge, Measure, bootstrap
from unisync_loss.demo_material import Material, load_material, to_colours
from unisync_loss.expert import UniSyncExpert
from unisync_loss.loss import UniSyncLoss
from unisync_loss.report import new_figure, write_report
from unisync_loss.report_page import LABELS

logger = logging.getLogger(__name__)
DEFAULT_CLIP = Path(__file__).parent / "assets" / "demo.mp4"
SHIFT = 5  # frames of the control that must score lower
STEPS = 240
CHECKS = 12  # times that training is interrupted to measure held-out frames

RUNS = ("reconstruction", "unisync")
LATE = (
    "The expert finds the clip's own audio {0:+d} frames ({1:+d} ms) late: both trainings learn from pairs out "
    "of sync. Put it right first (unisync align)."
)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """One training and what came of it.

    Attributes:
        seconds: training took.
        l1: mean absolute error of what is generated on held-out frames: the lower half of pictures, all of the numbers.
        psnr: the same in dB.
        mouth_correlation: over time, of the mouth's motion with that of the true held-out frames.
        mouth_correlation_shifted: the same with the generator driven by audio that is 5 frames late.
        offset_frames: estimated on held-out frames, positive = audio is late.
        steps: of the points of ``reconstruction`` and ``sync``.
        reconstruction: L1 of each step.
        sync: sync loss of each step, empty where it was not trained with.
        check_steps: steps at which held-out frames were measured.
        check_probability: their mean probability; nothing is chosen by it.
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
    """What the demonstration measured; ``to_json`` is what ``demo.json`` holds.

    Attributes:
        clip: name of the clip.
        expert: representations and architecture of the judge.
        visual: what is generated.
        seed: of weights and data order.
        steps: of each training.
        sync_weight: full weight of the sync loss.
        parameters: of the generator.
        frames: of the clip, with ``train`` and ``held`` as [first, last) frames.
        probability: of held-out windows: ``truth``, ``truth_shifted``, ``reconstruction``, ``unisync`` and
            ``unisync_shifted``.
        gain: ``unisync`` minus ``reconstruction``, window by window.
        truth_offset_frames: estimated on the whole clip, positive = audio is late.
        runs: by name, ``reconstruction`` and ``unisync``.
        series: probability of every held-out window, for the plots.
        seconds: everything took.
        notes: warnings about the clip.
    """

    clip: str
    expert: str
    visual: str
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
        """Whether the sync loss taught the lips: a sure gain, and sensitive to the audio's place."""
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
        values = {**asdict(self), "learnt": self.learnt}
        return json.dumps(values, indent=2) + "\n"


class Reporter:
    """Says how far the work is, at most every two seconds."""

    def __init__(self, progress: Progress, steps: int) -> None:
        """Start the clock."""
        self.progress, self.steps = progress, steps
        self.start = self.last = time.monotonic()

    def say(self, run: str, step: int, note: str) -> None:
        """Report a step of a run with the time that is left of both."""
        now = time.monotonic()
        if now - self.last < 2 and step < self.steps:
            return
        self.last = now
        dearer = 1.6  # a step with the sync loss against one without
        done = step if run == "reconstruction" else self.steps + dearer * step
        left = (now - self.start) / done * ((1 + dearer) * self.steps - done)
        self.progress(f"{LABELS[run]}: step {step}/{self.steps}, {note}, {left // 60:.0f}:{left % 60:02.0f} left")


def run_one(
    run: str, material: Material, judge: Judge, steps: int, seed: int, reporter: Reporter
) -> tuple[RunResult, Tensor]:
    """Train once and measure the held-out frames.

    Returns:
        The result and the held-out frames as generated, (T, …) as ``material.frames``.
    """
    start = time.monotonic()
    check_steps: list[int] = []
    check_probability: list[float] = []

    def each(step: int, generator: Generator) -> None:
        if step % max(1, steps // CHECKS) == 0 or step == steps:
            check_steps.append(step)
            check_probability.append(float(judge.probability(generate(generator, material)).mean()))
        reporter.say(run, step, f"probability {check_probability[-1]:.2f}" if check_probability else "starting")

    sync_loss = UniSyncLoss(judge.expert) if run == "unisync" else None
    generator, reconstruction, sync = train_generator(material, steps, seed, sync_loss, each)
    drawn, shifted = generate(generator, material), generate(generator, material, late=SHIFT)
    truth = material.frames[material.held.start :]
    error = made_part(material, drawn - truth)
    pictures, true_pictures, shifted_pictures = (
        to_colours(material.visual, video) for video in (drawn, truth, shifted)
    )
    result = RunResult(
        seconds=time.monotonic() - start,
        l1=float(error.abs().mean()),
        psnr=float(-10 * error.square().mean().clamp(min=1e-12).log10()),
        mouth_correlation=motion_correlation(pictures, true_pictures),
        mouth_correlation_shifted=motion_correlation(shifted_pictures, true_pictures),
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
    progress: Progress = logger.info,
) -> DemoResult:
    """Train both generators, measure them on held-out frames and write the report.

    Args:
        video: a clip of one face of at least 3.5 s; None takes the one that comes with the library.
        out: folder for ``report.html``, ``demo.mp4``, ``demo.json`` and pictures; made where missing.
        expert: on the CPU; its visual representation is what the generators make.
        seed: the same seed gives the same numbers on the same machine.
        steps: of each training; None takes 240, some three minutes on two cores.
        progress: takes a line of text now and then.

    Raises:
        ValueError: for a clip or an expert that cannot be used, or fewer than one step.
        ImportError: without matplotlib; without MediaPipe, which makes all but RGB from video.
        FileNotFoundError: when there is no such clip.
    """
    start = time.monotonic()
    steps = STEPS if steps is None else steps
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    new_figure(1, 1)  # a missing matplotlib is better found now than after the trainings
    video = DEFAULT_CLIP if video is None else Path(video)
    material = load_material(video, expert.eval())
    out.mkdir(parents=True, exist_ok=True)
    judge, reporter = Judge(expert, material), Reporter(progress, steps)
    runs: dict[str, RunResult] = {}
    drawn: dict[str, Tensor] = {}
    for run in RUNS:
        runs[run], drawn[run] = run_one(run, material, judge, steps, seed, reporter)
    result = summarise(video.name, material, judge, runs, drawn, seed=seed, seconds=time.monotonic() - start)
    progress("writing the report")
    videos = {"truth": material.frames[material.held.start :], **drawn}
    sound = material.waveform[material.held.start * SAMPLES_PER_FRAME :]
    write_report(result, {name: to_colours(material.visual, video) for name, video in videos.items()}, sound, out)
    return result


def summarise(
    clip: str,
    material: Material,
    judge: Judge,
    runs: dict[str, RunResult],
    drawn: dict[str, Tensor],
    *,
    seed: int,
    seconds: float,
) -> DemoResult:
    """Let the expert judge every version of the held-out frames."""
    truth = material.frames[material.held.start :]
    series = {
        "truth": judge.probability(truth),
        "truth_shifted": torch.cat([judge.probability(truth, late) for late in (-SHIFT, SHIFT)]),
        "reconstruction": judge.probability(drawn["reconstruction"]),
        "unisync": judge.probability(drawn["unisync"]),
        "unisync_shifted": judge.probability(drawn["unisync"], SHIFT),
    }
    values = {name: probability.double().numpy() for name, probability in series.items()}
    late, config = judge.offset(material.frames, 0), judge.expert.config
    return DemoResult(
        clip=clip,
        expert=f"{config.name} ({config.architecture})",
        visual=material.visual,
        seed=seed,
        steps=len(runs["unisync"].reconstruction),
        sync_weight=SYNC_WEIGHT,
        parameters=sum(parameter.numel() for parameter in new_generator(material).parameters()),
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
