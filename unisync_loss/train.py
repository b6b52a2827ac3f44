"""Train an expert on folders of clips: ``RUN/last``, ``RUN/best``, ``RUN/log.jsonl``, ``RUN/config.yaml``.

Chance is drawn anew from (seed, stage, step) at every step, so that a resumed run sees the same batches.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from unisync_loss.augment import centre_mouths
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
from unisync_loss.expert import UniSyncExpert
from unisync_loss.materials import Say, listener, load_clips, take_over
from unisync_loss.pretrained import load_expert, save_pretrained
from unisync_loss.providers import check_provided
from unisync_loss.recipe import TrainConfig
from unisync_loss.representations.morphable import MorphableInput
from unisync_loss.sampling import ClipData, Listen, to_pixels
from unisync_loss.series import visual_of_series
from unisync_loss.stages import ContrastStage, JointStage, Learner, Stage, SyncStage, parameters_of
from unisync_loss.state import load_state, save_state

SHORTEST_VAL = 7  # frames: two windows that are two frames apart


def train(config: TrainConfig, expert_config: UniSyncConfig, *, resume: bool, say: Say) -> None:
    """Run all stages.

    Args:
        config: of the run.
        expert_config: what to build; for HuBERT, model and width are filled in.
        resume: go on from ``OUT/state.safetensors`` where there is one.
        say: takes lines of progress.

    Raises:
        ValueError: for an expert that cannot be trained from video files, or unusable data.
        FileExistsError: when ``OUT`` holds a run and ``resume`` is False.
    """
    if expert_config.architecture != "small" and expert_config.visual == "rgb":
        raise ValueError("train: expected the small architecture for an expert on rgb, got paper")
    if expert_config.visual != "rgb":
        check_provided(expert_config)
    out = Path(config.out)
    if (out / "log.jsonl").exists() and not resume:
        raise FileExistsError(f"{out} holds a run: pass --resume to go on, or choose another --out")
    cache = Path(config.cache or out / "cache")
    expert_config, listen = listener(expert_config, config.hubert, cache / "hubert")
    run = _Run(config, expert_config, cache, listen, say)
    (out / "config.yaml").write_text(yaml.safe_dump({"train": asdict(config), "expert": asdict(expert_config)}))
    if resume and (out / "state.safetensors").exists():
        run.load()
    run.go()


class _Run:
    """State of a run: networks, averaged networks, place."""

    def __init__(
        self, config: TrainConfig, expert_config: UniSyncConfig, cache: Path, listen: Listen | None, say: Say
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.say, self.out = config, say, Path(config.out)
        load = partial(load_clips, cache=cache, config=expert_config, workers=config.workers, listen=listen, say=say)
        self.data = load(config.data, shortest=config.frames)
        self.val = load([config.val], shortest=SHORTEST_VAL) if config.val else None
        self.learner = Learner(expert_config)
        standardise(self.learner.expert, self.data)
        if config.init is not None:
            say(f"taken over from {config.init}: {' and '.join(take_over(self.learner.expert, config.init))}")
        self.average = Learner(expert_config).eval()
        self.average.load_state_dict(self.learner.state_dict())
        self.stages = config.stages(expert_config.visual)
        self.stage, self.step, self.best = 0, 0, 0.0
        self.optimiser: torch.optim.Optimizer | None = None
        self.stopped = False
        self.out.mkdir(parents=True, exist_ok=True)

    def go(self) -> None:
        """Run what is left."""
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            while self.stage < len(self.stages) and not self.stopped:
                self._run_stage(*self.stages[self.stage])
        finally:
            signal.signal(signal.SIGTERM, previous)
        if self.stopped:
            self.save()
            self.say("stopped; --resume goes on from here")
        elif self.config.val and (self.out / "best").is_dir() and self.data.config.visual == "rgb":
            self._choose_threshold(self.config.val)  # the aligner has not been asked yet

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
            if isinstance(stage, SyncStage | JointStage | ContrastStage) and (
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

        def prepare(stage: int) -> torch.optim.Optimizer | None:
            if stage < len(self.stages):
                self._prepare(self.stages[stage][1], self.stages[stage][3])
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
    """Embed whole cached clips; mouths are cut by landmarks: the aligner is left out, which makes it quick."""
    clips, expert = [], learner.expert
    for index in range(len(data)):
        frames = int(data.frames[index])
        batch = data.segments(np.array([index]), np.array([0]), frames)
        if expert.config.visual == "rgb":
            pieces = to_pixels(batch.seen["cuts"]).split(256)
            features = torch.cat([learner.stem(centre_mouths(piece)) for piece in pieces])
            visual = learner.visual.encode_frames(features, 1)[0]
        else:
            visual = expert.encode_visual(visual_of_series(expert.config, batch.seen["series"][:, :, 0]))[0]
        audio = expert.encode_audio(batch.audio, frames)[0]
        clips.append(ClipEmbedding(data.entries[index], audio, visual, np.ones(len(visual), bool)))
    return clips


def standardise(expert: UniSyncExpert, data: ClipData) -> None:
    """Store mean and deviation of the training clips' coefficients in an expert on 3dmm; others need none."""
    if isinstance(expert.visual_input, MorphableInput):
        expert.visual_input.measure(torch.from_numpy(data.seen["series"][:, 0]))
