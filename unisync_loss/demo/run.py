"""Demonstration: one small generator, trained twice on one clip, without and with the sync loss.

Both trainings share seed, initial weights, data order and number of steps; the loss is the only difference. Measures
are taken on frames later in the clip than all training frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional as F

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.demo.clip import DemoClip, load_demo_clip
from unisync_loss.demo.generator import SYNC_WEIGHT, LipGenerator, generate, lower_half, train_generator
from unisync_loss.demo.report import LABELS, DemoResult, RunResult, mean_over_time, write_report
from unisync_loss.functional import offset_matrix, sync_probability
from unisync_loss.loss import UniSyncLoss
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.files import ASSETS
from unisync_loss.utils.plotting import new_figure
from unisync_loss.utils.progress import Progress
from unisync_loss.utils.tensors import Array

DEFAULT_CLIP = ASSETS / "demo.mp4"
SHIFT = 5  # frames of the control that must score lower
MAX_OFFSET = 10  # frames on either side searched for the offset
_CHECKS = 12  # number of times that held-out frames are scored during training
_LATE = (
    "The expert estimates that the clip's own audio is {0:+d} frames ({1:+d} ms) late, so both trainings use pairs out "
    "of sync. Correct it first (unisync align)."
)


class Scorer:
    """Scores of the held-out frames of a clip by an expert in eval mode."""

    @torch.no_grad()
    def __init__(self, expert: UniSyncExpert, clip: DemoClip) -> None:
        self.expert, self.held = expert, clip.held
        self.audio = expert.encode_prepared_audio(clip.audio_input[None], len(clip.frames))[0]

    @torch.no_grad()
    def probability(self, video: Tensor, late: int = 0) -> Tensor:
        """Probability (W,) of each window of held-out frames (T, 3, 96, 96) that has audio, which is delayed."""
        visual = self.expert.encode_visual(video[None])[0]
        audio = torch.arange(len(visual)) + self.held.start - late
        valid = (audio >= 0) & (audio < len(self.audio))
        return sync_probability(self.audio[audio[valid]], visual[valid])

    @torch.no_grad()
    def offset(self, video: Tensor, first: int) -> int:
        """Estimate the offset of frames (T, 3, 96, 96) from the clip's frame ``first`` on; positive = audio late."""
        visual = self.expert.encode_visual(video[None])
        audio = self.audio[None, first : first + visual.shape[1]]
        most = min(MAX_OFFSET, visual.shape[1] // 2)
        return int(offset_matrix(audio, visual, most)[0].nanmean(dim=0).argmax()) - most


def run_demo(
    video: Path, out: Path, expert: UniSyncExpert, *, steps: int, seed: int = 0, log: Callable[[str], None] = print
) -> DemoResult:
    """Train both generators, measure them on held-out frames and write the report.

    Args:
        video: a clip of one face of at least 3.5 s, such as :data:`DEFAULT_CLIP`.
        out: folder for ``report.html``, ``demo.mp4``, ``demo.json`` and figures; made where missing.
        expert: on RGB, on the CPU.
        steps: of each training; 240 take about three minutes on two cores.
        seed: the same seed gives the same numbers on the same machine.
        log: takes lines of progress.

    Raises:
        ValueError: for a clip or an expert that cannot be used, or fewer than one step.
        ImportError: without matplotlib.
        FileNotFoundError: when the clip does not exist.
    """
    start = time.monotonic()
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    new_figure(1, 1)  # a missing matplotlib is an error before the trainings, not after
    clip = load_demo_clip(video, expert.eval())
    out.mkdir(parents=True, exist_ok=True)
    scorer, progress = Scorer(expert, clip), Progress(log, 2 * steps)
    videos = {"truth": clip.frames[clip.held.start :]}
    runs: dict[str, RunResult] = {}
    for run in ("reconstruction", "unisync"):
        runs[run], videos[run] = train_and_measure(run, clip, scorer, steps, seed, progress)
    values = score_videos(scorer, videos)
    offset = scorer.offset(clip.frames, 0)
    result = DemoResult(
        clip=video.name,
        expert=f"{expert.config.name} ({expert.config.architecture})",
        seed=seed,
        steps=steps,
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
        seconds=time.monotonic() - start,
        notes=[_LATE.format(offset, offset * 1000 // FPS)] if abs(offset) > 1 else [],
    )
    log("writing the report")
    write_report(result, videos, clip.waveform[clip.held.start * SAMPLES_PER_FRAME :], out)
    return result


def train_and_measure(
    run: str, clip: DemoClip, scorer: Scorer, steps: int, seed: int, progress: Progress
) -> tuple[RunResult, Tensor]:
    """Train one generator; return its measures and the generated held-out frames (T, 3, 96, 96)."""
    start = time.monotonic()
    history: list[list[float]] = []
    checks: dict[int, float] = {}
    sync_loss = UniSyncLoss(scorer.expert) if run == "unisync" else None
    for generator, losses in train_generator(clip, steps, seed, sync_loss):
        history.append(losses)
        step = len(history)
        if step % max(1, steps // _CHECKS) == 0 or step == steps:
            checks[step] = float(scorer.probability(generate(generator, clip)).mean())
        probability = f", probability {[*checks.values()][-1]:.2f}" if checks else ""
        progress.update(step + steps * (run == "unisync"), f"{LABELS[run]}: step {step}/{steps}{probability}")
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
        reconstruction=[losses[0] for losses in history],
        sync=[losses[1] for losses in history if losses[1:]],
        check_steps=list(checks),
        check_probability=list(checks.values()),
    )
    return result, generated


def score_videos(scorer: Scorer, videos: dict[str, Tensor]) -> dict[str, Array]:
    """Score every held-out window (W,), also with shifted audio as a control, by the keys of ``LABELS``."""
    truth, unisync = videos["truth"], videos["unisync"]
    series = {
        "truth": scorer.probability(truth),
        "truth_shifted": torch.cat([scorer.probability(truth, late) for late in (-SHIFT, SHIFT)]),
        "reconstruction": scorer.probability(videos["reconstruction"]),
        "unisync": scorer.probability(unisync),
        "unisync_shifted": scorer.probability(unisync, SHIFT),
    }
    return {key: probability.double().numpy() for key, probability in series.items()}


def motion_correlation(generated: Tensor, truth: Tensor) -> float:
    """Correlation over time, in [-1, 1], of the mouth's brightness in two videos (T, 3, 96, 96), without an expert.

    A moving average over 9 frames is subtracted, to remove changes of pose and light.
    """
    moves = []
    for video in (generated, truth):
        mouth = video[:, :, 54:92, 28:68]  # in tight and loose crops
        grey = reduce(mouth, "t c h w -> 1 (h w) t", "mean")
        moves.append(grey - F.avg_pool1d(grey, 9, 1, 4, count_include_pad=False))
    product = (moves[0] * moves[1]).sum()
    return float(product / (moves[0].norm() * moves[1].norm()).clamp(min=1e-12))
