"""Train an expert on folders of clips: ``RUN/last``, ``RUN/best``, ``RUN/log.jsonl``, ``RUN/config.yaml``.

Chance is drawn anew from (seed, stage, step) at every step, so that a resumed run sees the same batches.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import yaml
from einops import rearrange
from torch import nn

from unisync_loss.augment import centre_mouths
from unisync_loss.cache import build_cache
from unisync_loss.clips import list_clips
from unisync_loss.config import UniSyncConfig
from unisync_loss.evaluate import (
    ClipEmbedding,
    PairScores,
    accuracy_at,
    area_under_curve,
    best_threshold,
    embed_clips,
    estimate_offset,
    score_pairs,
)
from unisync_loss.pretrained import load_expert, save_pretrained
from unisync_loss.sampling import ClipData, to_pixels
from unisync_loss.stages import (
    AlignStage,
    BatchSize,
    GeometryStage,
    JointStage,
    Learner,
    Stage,
    SyncStage,
    parameters_of,
    window_steps,
)
from unisync_loss.state import load_state, save_state

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a run depends on, saved as ``RUN/config.yaml``.

    Args:
        data: training folders.
        val: validation folder; none stops the run from keeping a best checkpoint and choosing a threshold.
        out: folder of the run.
        cache: folder of the clip cache, shared by runs; default ``OUT/cache``.
        seed: of everything drawn.
        align_steps: steps of the aligner stage.
        geometry_steps: steps of the mouth-motion stage.
        sync_steps: steps of contrast on the measured motion.
        joint_steps: steps of contrast with everything unfrozen.
        clips: clips of a batch.
        segments: segments of each clip.
        frames: frames of a segment.
        learning_rate: peak of the cosine schedule.
        joint_learning_rate: the same for the last stage.
        weight_decay: decoupled, of weights with more than one axis.
        ema: decay of the averaged weights that are validated and saved.
        val_every: steps between validations.
        save_minutes: minutes between saves of the state.
        workers: processes that fill the cache.
    """

    data: tuple[str, ...]
    out: str
    val: str | None = None
    cache: str | None = None
    seed: int = 0
    align_steps: int = 3000
    geometry_steps: int = 800
    sync_steps: int = 1000
    joint_steps: int = 1300
    clips: int = 32
    segments: int = 2
    frames: int = 13
    learning_rate: float = 1e-3
    joint_learning_rate: float = 7e-4
    weight_decay: float = 0.05
    ema: float = 0.998
    val_every: int = 200
    save_minutes: float = 3.0
    workers: int = 2

    def stages(self) -> list[tuple[str, Stage, int, float]]:
        """Name, objective, steps and learning rate of every stage."""
        size = BatchSize(self.clips, self.segments, self.frames)
        return [
            ("align", AlignStage(), self.align_steps, self.learning_rate),
            ("geometry", GeometryStage(size), self.geometry_steps, self.learning_rate),
            ("sync", SyncStage(size), self.sync_steps, self.learning_rate),
            ("joint", JointStage(size), self.joint_steps, self.joint_learning_rate),
        ]


def train(config: TrainConfig, expert_config: UniSyncConfig, *, resume: bool, say: Say) -> None:
    """Run all stages.

    Args:
        config: of the run.
        expert_config: what to build; ``small`` mel-rgb.
        resume: go on from ``OUT/state.safetensors`` where there is one.
        say: takes lines of progress.

    Raises:
        ValueError: for a pair or architecture that cannot be trained from video files yet, or unusable data.
        FileExistsError: when ``OUT`` holds a run and ``resume`` is False.
    """
    if (expert_config.name, expert_config.architecture) != ("mel-rgb", "small"):
        raise ValueError(
            f"train: expected the small mel-rgb expert, got {expert_config.architecture} {expert_config.name}"
        )
    out = Path(config.out)
    if (out / "log.jsonl").exists() and not resume:
        raise FileExistsError(f"{out} holds a run: pass --resume to go on, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump({"train": asdict(config), "expert": asdict(expert_config)}))
    run = _Run(config, expert_config, say)
    if resume and (out / "state.safetensors").exists():
        run.load()
    run.go()


class _Run:
    """State of a run: networks, averaged networks, place."""

    def __init__(self, config: TrainConfig, expert_config: UniSyncConfig, say: Say) -> None:
        torch.manual_seed(config.seed)
        self.config, self.say, self.out = config, say, Path(config.out)
        self.data = self._load(config.data, config.frames, "training")
        self.val = self._load((config.val,), 7, "validation") if config.val else None
        self.learner = Learner(expert_config)
        self.average = Learner(expert_config).eval()
        self.average.load_state_dict(self.learner.state_dict())
        self.stage, self.step, self.best = 0, 0, 0.0
        self.optimiser: torch.optim.Optimizer | None = None
        self.stopped = False

    def _load(self, folders: tuple[str, ...], shortest: int, what: str) -> ClipData:
        entries = [entry for folder in folders for entry in list_clips(folder)]
        cache = Path(self.config.cache or self.out / "cache")
        started, last = time.monotonic(), 0.0
        reasons: dict[str, str] = {}
        for progress in build_cache(entries, cache, self.config.workers):
            done, total, reasons = progress
            if time.monotonic() - last > 5:
                last = time.monotonic()
                self.say(f"{what}: {done}/{total} clips read, {last - started:.0f} s")
        for name, reason in reasons.items():
            self.say(f"{what}: left out {name}: {reason}")
        data = ClipData(entries, cache, UniSyncConfig(), shortest)
        minutes = data.frames.sum() / 25 / 60
        self.say(f"{what}: {len(data)} clips, {len(set(data.speaker.tolist()))} speakers, {minutes:.1f} minutes")
        return data

    def go(self) -> None:
        """Run what is left."""
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            stages = self.config.stages()
            while self.stage < len(stages) and not self.stopped:
                self._run_stage(*stages[self.stage])
        finally:
            signal.signal(signal.SIGTERM, previous)
        if self.stopped:
            self.save()
            self.say("stopped; --resume goes on from here")
        elif self.config.val and (self.out / "best").is_dir():
            self._choose_threshold(self.config.val)

    def _choose_threshold(self, folder: str) -> None:
        """Set the best checkpoint's threshold on whole validation files, just as ``unisync eval`` reads them."""
        self.say("choosing the threshold on the validation files")
        expert = load_expert(self.out / "best")
        scores = score_pairs(list(embed_clips(expert, list_clips(folder))), seed=0)
        expert.config = replace(expert.config, threshold=round(best_threshold(scores), 4))
        save_pretrained(expert, self.out / "best")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

    def _run_stage(self, name: str, stage: Stage, steps: int, rate: float) -> None:
        self._prepare(stage, rate)
        started, first, saved = time.monotonic(), self.step, time.monotonic()
        said = started
        while self.step < steps and not self.stopped:
            terms = self._advance(stage, steps, rate)
            now = time.monotonic()
            if now - said > 10 or self.step == steps:
                left = (now - started) / (self.step - first) * (steps - self.step)
                self._log({"stage": name, "step": self.step, **terms, "seconds_left": round(left)})
                said = now
            if isinstance(stage, SyncStage | JointStage) and (
                self.step % self.config.val_every == 0 or self.step == steps
            ):
                self._validate(name)
            if now - saved > 60 * self.config.save_minutes:
                self.save()
                saved = now
        if not self.stopped:
            self.stage, self.step, self.optimiser = self.stage + 1, 0, None
            self.save()

    def _prepare(self, stage: Stage, rate: float) -> None:
        self.learner.eval().requires_grad_(False)
        for module in stage.trained(self.learner):
            module.train()
        parameters = [parameter.requires_grad_(True) for parameter in parameters_of(stage, self.learner)]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        moments = self.optimiser.state_dict() if self.optimiser is not None else None
        self.optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        if moments is not None:
            self.optimiser.load_state_dict(moments)

    def _advance(self, stage: Stage, steps: int, rate: float) -> dict[str, float]:
        assert self.optimiser is not None
        generator = np.random.default_rng([self.config.seed, self.stage, self.step])
        torch.manual_seed(int(generator.integers(2**62)))
        warm_up = min(100, steps // 10 + 1)
        progress = min(1.0, (self.step + 1) / warm_up)
        cosine = 0.5 * (1 + np.cos(np.pi * self.step / steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * progress * max(cosine, 0.01)
        terms = stage.loss(self.learner, self.data, generator)
        if not torch.isfinite(terms["loss"]):
            raise FloatingPointError(f"loss is {terms['loss'].item()} at step {self.step} of stage {self.stage}")
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return {key: round(value.item(), 4) for key, value in terms.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        # a young average follows closely; without this it would remember the random start
        decay = min(self.config.ema, self.step / (self.step + 10))
        for mean, value in zip(self.average.state_dict().values(), self.learner.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def _validate(self, stage: str) -> None:
        if self.val is None:
            self._save_checkpoint("last", 0.5)
            return
        clips = list(embed_data(self.average, self.val))
        scores = score_pairs(clips, seed=0)
        report = summarise_validation(clips, scores)
        self._log({"stage": stage, "step": self.step, **report})
        self._save_checkpoint("last", report["threshold"])
        if report["val_auc"] > self.best:
            self.best = report["val_auc"]
            self._save_checkpoint("best", report["threshold"])

    def _save_checkpoint(self, name: str, threshold: float) -> None:
        expert = self.average.expert
        expert.config = replace(expert.config, threshold=round(threshold, 4))
        save_pretrained(expert, self.out / name)

    def _log(self, record: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.say("  ".join(f"{key} {value}" for key, value in record.items()))

    def save(self) -> None:
        """Write the whole state, atomically."""
        place = {"stage": self.stage, "step": self.step, "best": self.best, "config": asdict(self.config)}
        save_state(self.out / "state.safetensors", self.learner, self.average, self.optimiser, place)

    def load(self) -> None:
        """Go back to the last saved state."""
        stages = self.config.stages()

        def prepare(stage: int) -> torch.optim.Optimizer | None:
            if stage < len(stages):
                self._prepare(stages[stage][1], stages[stage][3])
            return self.optimiser

        place = load_state(self.out / "state.safetensors", self.learner, self.average, prepare)
        self.stage, self.step, self.best = place["stage"], place["step"], place["best"]
        self.say(f"resumed at stage {self.stage}, step {self.step}")


def summarise_validation(clips: list[ClipEmbedding], scores: PairScores) -> dict[str, float]:
    """AUC, accuracy at the best threshold and at 0.5, and share of clips with the right offset."""
    threshold = best_threshold(scores)
    right = np.mean([abs(estimate_offset(clip)) <= 1 for clip in clips])
    return {
        "val_auc": round(area_under_curve(scores.positive, scores.negative), 4),
        "val_accuracy": round(accuracy_at(scores, threshold), 4),
        "val_accuracy_at_0.5": round(accuracy_at(scores, 0.5), 4),
        "threshold": round(threshold, 4),
        "val_offset_within_1": round(float(right), 4),
    }


@torch.inference_mode()
def embed_data(learner: Learner, data: ClipData) -> list[ClipEmbedding]:
    """Embed whole cached clips, mouths cut by landmarks: the aligner is left out, which makes it quick."""
    clips = []
    for index in range(len(data)):
        frames = int(data.frames[index])
        batch = data.segments(np.array([index]), np.zeros(1), frames, np.ones(1))
        features = torch.cat([learner.stem(centre_mouths(piece)) for piece in to_pixels(batch.cuts).split(256)])
        visual = learner.visual.encode_frames(features, 1)[0]
        audio = learner.audio(rearrange(batch.mel, "n f m -> n m f"), window_steps(frames))[0]
        clips.append(ClipEmbedding(data.entries[index], audio, visual, np.ones(len(visual), bool)))
    return clips
