"""Demonstration: one small generator, trained to reconstruct one clip and then on without and with the sync loss.

Both trainings start from the same weights and share the data and the number of steps; the loss is the only difference.
Measures are taken on frames later in the clip than all training frames; no sync expert takes part in the verdict.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unisync_loss.config import FPS, SAMPLES_PER_FRAME
from unisync_loss.demo.clip import DemoClip, load_demo_clip
from unisync_loss.demo.generator import LipGenerator, generate, new_generator, train_generator
from unisync_loss.demo.quality import compare_lips, compare_pictures, lips_of, mean_over_time, mouth_box
from unisync_loss.demo.report import write_report
from unisync_loss.demo.results import LABELS, DemoResult, DemoSettings, RunResult
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
_CHECKS = 6  # number of times that held-out frames are scored during training
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


class Trainings(NamedTuple):
    """What the trainings leave."""

    first_loss: list[float]  # L1 of each step that both have in common
    runs: dict[str, RunResult]  # reconstruction and unisync
    videos: dict[str, Tensor]  # held-out frames (T, 3, 96, 96): truth, reconstruction, unisync


def run_demo(
    video: Path,
    out: Path,
    expert: UniSyncExpert,
    settings: DemoSettings,
    *,
    log: Callable[[str], None] = print,
) -> DemoResult:
    """Train both generators, measure them on held-out frames and write the report.

    Args:
        video: a clip of one face of at least 3.5 s, such as :data:`DEFAULT_CLIP`.
        out: folder for ``report.html``, ``demo.mp4``, ``demo.json`` and figures; made where missing.
        expert: on RGB, on the CPU.
        settings: of both trainings; the same seed gives the same numbers on the same machine.
        log: takes lines of progress.

    Raises:
        ValueError: for a clip or an expert that cannot be used.
        ImportError: without matplotlib or MediaPipe.
        FileNotFoundError: when the clip does not exist.
    """
    start = time.monotonic()
    new_figure(1, 1)  # a missing matplotlib is an error before the trainings, not after
    clip = load_demo_clip(video, expert.eval())
    mouth = mouth_box(clip.frames[clip.held.start :])  # as is a missing MediaPipe
    out.mkdir(parents=True, exist_ok=True)
    scorer = Scorer(expert, clip)
    first_loss, runs, videos = train_generators(clip, scorer, settings, log)
    log("measuring lips and picture")
    values, offset, seed = score_videos(scorer, videos), scorer.offset(clip.frames, 0), settings.seed
    result = DemoResult(
        clip=video.name,
        expert=f"{expert.config.name} ({expert.config.architecture})",
        settings=settings,
        first_loss=first_loss,
        parameters=sum(parameter.numel() for parameter in LipGenerator().parameters()),
        frames=len(clip.frames),
        train=(clip.train.start, clip.train.stop),
        held=(clip.held.start, clip.held.stop),
        lips=compare_lips(*map(lips_of, videos.values()), seed=seed),
        picture=compare_pictures(*map(mouth.cut, videos.values()), seed=seed),
        probability={key: mean_over_time(value, seed) for key, value in values.items()},
        truth_offset_frames=offset,
        runs=runs,
        series={key: value.tolist() for key, value in values.items()},
        seconds=time.monotonic() - start,
        notes=[_LATE.format(offset, offset * 1000 // FPS)] if abs(offset) > 1 else [],
    )
    log("writing the report")
    write_report(result, videos, mouth, clip.waveform[clip.held.start * SAMPLES_PER_FRAME :], out)
    return result


def train_generators(clip: DemoClip, scorer: Scorer, settings: DemoSettings, log: Callable[[str], None]) -> Trainings:
    """Train a generator to reconstruct, then one copy of it in the same way and one with the sync loss."""
    first_steps, steps, seed = settings.first_steps, settings.steps, settings.seed
    progress = Progress(log, first_steps + 2 * steps)
    start, first_loss = new_generator(seed), []
    for (loss,) in train_generator(start, clip, first_steps, seed=seed):
        first_loss.append(loss)
        progress.update(len(first_loss), f"{LABELS['reconstruction']}: step {len(first_loss)}/{first_steps}")
    trained = Trainings(first_loss, {}, {"truth": clip.frames[clip.held.start :]})
    for run, sync_loss in (("reconstruction", None), ("unisync", UniSyncLoss(scorer.expert))):
        began, generator, history, checks = time.monotonic(), copy.deepcopy(start), [], {}
        # another seed than before, but the same for both: the loss is the only difference
        for losses in train_generator(
            generator, clip, steps, seed=seed + 1, sync_loss=sync_loss, sync_weight=settings.sync_weight
        ):
            history.append(losses)
            step = len(history)
            if step % max(1, steps // _CHECKS) == 0 or step == steps:
                checks[step] = float(scorer.probability(generate(generator, clip)).mean())
            done = first_steps + steps * len(trained.runs) + step
            progress.update(done, f"{LABELS[run]}: step {step}/{steps}")
        trained.videos[run] = generate(generator, clip)
        trained.runs[run] = RunResult(
            seconds=time.monotonic() - began,
            reconstruction=[losses[0] for losses in history],
            sync=[losses[1] for losses in history if losses[1:]],
            check_steps=list(checks),
            check_probability=list(checks.values()),
        )
    return trained


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
