"""Train an expert; leaves ``last``, ``best``, ``log.jsonl``, ``log.csv``, ``curves.png``, ``config.yaml``."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.data.clips import list_split
from unisync_loss.evaluation.embeddings import embed_clips
from unisync_loss.evaluation.protocols import best_threshold, score_pairs
from unisync_loss.models.pretrained import load_expert, save_pretrained
from unisync_loss.training.checkpoint import load_state, remove_unfinished, save_state
from unisync_loss.training.config import TrainConfig, to_yaml
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.loading import list_folders, load_clips, standardise
from unisync_loss.training.data.pairs import SHORTEST
from unisync_loss.training.data.stored_features import check_trainable
from unisync_loss.training.model import TrainingModel, build_hubert, copy_towers
from unisync_loss.training.run_log import LOG, Log, PlateauWatch, diagnose, draw_curves, write_table
from unisync_loss.training.stages import Stage
from unisync_loss.training.step import Engine, check_compiler
from unisync_loss.training.validation import validate
from unisync_loss.utils.distributed import ProcessGroup
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress

SHORTEST_VAL = 7  # frames: two windows that are two frames apart
_LOG_SECONDS = 10.0  # between records of progress
STATE = "state.safetensors"
TEACHING = ("align", "geometry")  # stages that learn from landmarks, without a voice


def train(config: TrainConfig, expert_config: UniSyncConfig, *, resume: bool, log: Callable[[str], None]) -> None:
    """Run all stages.

    Args:
        config: of the run.
        expert_config: what to build; for HuBERT, model and width are filled in.
        resume: go on from ``OUT/state.safetensors`` where there is one.
        log: takes lines of progress.

    Raises:
        ValueError: for an expert that cannot be trained from video files, unusable data, or nothing to do.
        OSError: on a full disk.
        FileExistsError: when ``OUT`` holds a run and ``resume`` is False.
        FloatingPointError: when the loss is not finite; the batch is saved.
    """
    check_trainable(expert_config, list_folders([*config.data, *([config.val] if config.val else [])]))
    if not any(steps for name, _, steps, _ in config.stages(expert_config) if name not in TEACHING):
        raise ValueError("steps: expected some of a stage that learns sync, got 0")
    out = Path(config.out)
    if (out / LOG).exists() and not resume:
        raise FileExistsError(f"{out} holds a run: pass --resume to go on, or choose another --out")
    run = prepare_run(config, expert_config, log)
    run.begin(resume=resume)
    run.go()
    run.group.destroy()


def prepare_run(config: TrainConfig, expert_config: UniSyncConfig, log: Callable[[str], None]) -> Run:
    """Read the data and build the networks.

    Args:
        config: of the run.
        expert_config: what to build.
        log: takes lines of progress.
    """
    group, device = ProcessGroup.init(config.device)
    log = log if group.is_main else lambda line: None
    if config.compile:
        log("compile: looking for a compiler; then the first steps of each stage take minutes")
        check_compiler(device)
    out = Path(config.out)
    cache = Path(config.cache or out / "cache")
    expert_config, listen = build_hubert(expert_config, config.hubert, cache / "hubert", device)
    torch.manual_seed(config.seed)
    learner = TrainingModel(expert_config)
    taken: set[str] = set()
    for init in config.init:
        taken |= (sides := copy_towers(learner.expert, init))
        log(f"taken over from {init}: {' and '.join(sorted(sides))}")
    if taken == {"audio"} and expert_config.has_mouth_aligner:
        raise ValueError(f"init: expected one that sees rgb, too, for it finds the mouth; got {', '.join(config.init)}")
    if config.freeze and config.freeze not in taken:
        raise ValueError(f"freeze: expected a tower taken over ({', '.join(taken)}), got {config.freeze}")
    load = partial(
        load_clips, cache=cache, config=expert_config, workers=config.workers, audio_features=listen, log=log
    )
    if not group.is_main:
        group.wait()  # the first process fills the cache
    shortest = SHORTEST if config.pairs == "random" else config.frames
    data = load(config.data, shortest=shortest)
    val = load([config.val], shortest=SHORTEST_VAL) if config.val else None
    if group.is_main:
        group.wait()
    if "visual" not in taken:
        standardise(learner.expert, data)
    engine = Engine(config, learner.to(device), data, group)
    return Run(config, engine, val, log)


class Run:
    """A run's place, and what it leaves behind.

    Args:
        config: of the run.
        engine: takes the steps.
        val: validation clips.
        log: takes lines of progress.
    """

    def __init__(
        self, config: TrainConfig, engine: Engine, val: CachedClipDataset | None, log: Callable[[str], None]
    ) -> None:
        """Start at the first step of the first stage."""
        self.config, self.engine, self.val, self.log = config, engine, val, log
        self.out, self.group, self.expert = Path(config.out), engine.group, engine.learner.expert
        self.stages = config.stages(self.expert.config)
        self.run_log = Log(self.out, log) if self.group.is_main else None
        self.stage, self.step, self.best = 0, 0, 0.0
        self.samples = 0  # windows and views that entered a loss
        self.asked = False  # this process, to stop
        self.stopped = False  # as all processes do after the same step

    def begin(self, *, resume: bool) -> None:
        """Make the folder, and go back to the last saved state if told."""
        settings, lengths = self.config, [(name, steps) for name, _, steps, _ in self.stages]
        if self.run_log is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.out / STATE)
            write_atomically(self.out / "config.yaml", to_yaml(settings, self.expert.config))
        self.group.wait()
        if resume and (self.out / STATE).exists():
            self.load()
        if self.run_log is not None:
            self.run_log.rewind([name for name, _ in lengths], self.stage, self.step)
            self.run_log.open(lengths, {**asdict(settings), "expert": asdict(self.expert.config)})

    def go(self) -> None:
        """Run what is left."""
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            while self.stage < len(self.stages) and not self.stopped:
                self._run_stage(*self.stages[self.stage])
            if self.stopped:
                self.save()
                self.log("stopped; --resume goes on from here")
        finally:
            signal.signal(signal.SIGTERM, previous)
            self.engine.close()
            if self.run_log is not None:
                self.run_log.close()
        if self.stopped:
            return
        aligned = self.expert.config.has_mouth_aligner and self.config.align_steps > 0
        if self.group.is_main and self.config.val and (self.out / "best").is_dir() and aligned:
            self._choose_threshold(self.config.val)  # the aligner has not been asked yet

    def _choose_threshold(self, folder: str) -> None:
        """Set the best checkpoint's threshold on whole validation files, just as ``unisync eval`` reads them."""
        self.log("choosing the threshold on the validation files")
        expert = load_expert(self.out / "best")
        scores = score_pairs(list(embed_clips(expert, list_split(folder))), seed=0)
        expert.config = replace(expert.config, threshold=round(best_threshold(scores), 4))
        save_pretrained(expert, self.out / "best")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def _run_stage(self, name: str, stage: Stage[Any], steps: int, rate: float) -> None:
        engine, config = self.engine, self.config
        engine.prepare(stage, rate)
        contrasts, watch = name not in TEACHING, self.watch()
        throughput, saved, terms = _Throughput(engine, self.step, steps), time.monotonic(), {}
        while self.step < steps and not self.stopped:
            terms = engine.step(stage, (self.stage, self.step), steps, rate)
            self.step += 1
            self.samples += engine.windows
            stuck = contrasts and watch.look(terms["margin"].item())
            now = time.monotonic()
            if now - throughput.last > _LOG_SECONDS or self.step == steps or stuck:
                self._log_step(name, terms, throughput.since(self.step, now), watch if contrasts else None)
            if stuck:
                values = {key: value.item() for key, value in terms.items()}
                for line in diagnose(values, watch, len(engine.data), config.data):
                    self.log(line)
            if contrasts and (self.step % config.val_every == 0 or self.step == steps):
                self._validate(name)
            self.stopped = self.group.any(self.asked, engine.device)
            if now - saved > 60 * config.save_minutes and self.step < steps:
                self.save()
                saved = now
        if not self.stopped:
            self.stage, self.step, engine.optimiser = self.stage + 1, 0, None
            self.save()
            self._summarise()

    def watch(self) -> PlateauWatch:
        """A fresh watch over this run's plateau."""
        expert, config = self.expert.config, self.config
        margins = expert.margin_same, expert.margin_cross
        positive = config.positive_share if config.pairs == "random" else 0.5
        return PlateauWatch(margins, config.cross_share, positive, config.plateau_steps)

    def _log_step(self, name: str, terms: dict[str, Tensor], rates: dict[str, Any], watch: PlateauWatch | None) -> None:
        if self.run_log is None:
            return
        record = {"stage": name, "step": self.step}
        record |= {key: round(value.item(), 4) for key, value in terms.items() if torch.isfinite(value)}
        if watch is not None:
            record |= {"plateau": round(watch.value, 4), "on_plateau": watch.on}
        self.run_log.write(record | rates)

    def _validate(self, stage: str) -> None:
        if not self.group.is_main:
            return self.group.wait()
        assert self.run_log is not None
        if self.val is None:
            self._save_checkpoint("last", 0.5)
        else:
            report = validate(self.engine.average, self.val)
            self.run_log.write({"stage": stage, "step": self.step, "samples": self.samples, **report})
            self._save_checkpoint("last", report["threshold"])
            if report["val_auc"] > self.best:
                self.best = report["val_auc"]
                self._save_checkpoint("best", report["threshold"])
        self._summarise()
        self.group.wait()

    def _summarise(self) -> None:
        if self.group.is_main:
            write_table(self.out)
            draw_curves(self.out)

    def _save_checkpoint(self, name: str, threshold: float) -> None:
        expert = self.engine.average.expert
        expert.config = replace(expert.config, threshold=round(threshold, 4))
        save_pretrained(expert, self.out / name)

    def save(self) -> None:
        """Write the whole state, atomically."""
        if not self.group.is_main:
            return
        if not all(torch.isfinite(weights).all() for weights in self.engine.learner.parameters()):
            return  # the next loss stops the run; the state of before is whole
        place: dict[str, Any] = {"stage": self.stage, "step": self.step, "best": self.best, "samples": self.samples}
        place |= {"config": asdict(self.config), "scaler": self.engine.scaler.state_dict()}
        save_state(self.out / STATE, self.engine.learner, self.engine.average, self.engine.optimiser, place)

    def load(self) -> None:
        """Go back to the last saved state."""

        def prepare(stage: int) -> torch.optim.Optimizer | None:
            if stage < len(self.stages):
                self.engine.prepare(self.stages[stage][1], self.stages[stage][3])
            return self.engine.optimiser

        place = load_state(self.out / STATE, self.engine.learner, self.engine.average, prepare)
        self.stage, self.step, self.best = place["stage"], place["step"], place["best"]
        self.samples = place.get("samples", 0)
        if place.get("scaler"):
            self.engine.scaler.load_state_dict(place["scaler"])
        self.log(f"resumed at stage {self.stage}, step {self.step}")


class _Throughput:
    """Samples per second, share of the time spent waiting for data, and time left."""

    def __init__(self, engine: Engine, step: int, steps: int) -> None:
        self.engine, self.step = engine, step
        self.progress = Progress(lambda line: None, steps, done=step)
        self.last = time.monotonic()
        self.waited = engine.waited

    def since(self, step: int, now: float) -> dict[str, Any]:
        """Values since the last call."""
        seconds, done = max(now - self.last, 1e-9), step - self.step
        waited = self.engine.waited - self.waited
        self.last, self.step, self.waited = now, step, self.engine.waited
        return {
            "samples_per_second": round(done * self.engine.windows / seconds, 1),
            "data_wait": round(waited / seconds, 3),
            "seconds_left": round(self.progress.seconds_left(step)),
        }
