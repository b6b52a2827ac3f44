"""Training of an expert, stage by stage; leaves ``last``, ``best``, ``log.jsonl`` and ``config.yaml`` in its folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from unisync_loss.config import UniSyncConfig
from unisync_loss.training.checkpoint import STATE, CheckpointKeeper, load_state, remove_unfinished, save_state
from unisync_loss.training.config import TrainConfig
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.data.loading import list_folders, load_clips, standardise
from unisync_loss.training.data.stored_features import check_trainable
from unisync_loss.training.model import TrainingModel, build_audio_encoder, copy_towers
from unisync_loss.training.mouth_stages import MouthAlignerStage
from unisync_loss.training.run_log import LOG, RunLog
from unisync_loss.training.settings import as_dict, to_yaml
from unisync_loss.training.stages import StageSpec
from unisync_loss.training.step import Stepper, check_compiler
from unisync_loss.training.validation import PlateauWatch, diagnose, validate
from unisync_loss.utils.distributed import ProcessGroup
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress

SHORTEST_VAL = 7  # frames: two windows that are two frames apart
_LOG_SECONDS = 10.0  # between records; reading a loss makes a GPU wait


def train(config: TrainConfig, expert_config: UniSyncConfig, *, resume: bool, log: Callable[[str], None]) -> None:
    """Run all stages.

    Args:
        config: of the run.
        expert_config: of the expert; revision and width of its audio model are filled in.
        resume: continue from the state in the run's folder, if there is one.
        log: takes lines of progress.

    Raises:
        ValueError: for an expert that cannot be trained from video files, or unusable data.
        OSError: on a full disk.
        FileExistsError: if the folder holds a run and ``resume`` is False, or another process trains in it.
        FloatingPointError: if the loss is not finite; the batch is saved.
    """
    out = Path(config.run.out)
    if (out / LOG).exists() and not resume:
        raise FileExistsError(f"{out} holds a run: pass --resume to continue it, or choose another --out")
    trainer = build_trainer(config, expert_config, log)
    trainer.begin(resume=resume)
    trainer.run()
    trainer.group.destroy()


def build_trainer(
    config: TrainConfig,
    expert_config: UniSyncConfig,
    log: Callable[[str], None],
    stages: Sequence[StageSpec] | None = None,
    *,
    repeat: bool = False,
) -> Trainer:
    """Load the clips and build the networks.

    Args:
        config: of the run.
        expert_config: of the expert.
        log: takes lines of progress.
        stages: in place of those of the recipe.
        repeat: take every step on the batch of the first.

    Raises:
        ValueError: as :func:`train`.
    """
    folders = config.data.folders
    entries, val_entries = list_folders(folders), list_folders([config.data.val] if config.data.val else [])
    check_trainable(expert_config, [*entries, *val_entries])
    group, device = ProcessGroup.init(config.run.device)
    log = log if group.is_main else lambda line: None
    if config.optimiser.compile:
        log("compile: checking the compiler; the first steps of each stage will take minutes")
        check_compiler(device)
    cache = Path(config.data.cache or Path(config.run.out) / "cache")
    expert_config, features = build_audio_encoder(expert_config, config.data.audio_model, cache, device)
    torch.manual_seed(config.run.seed)
    model = TrainingModel(expert_config, group)
    copied = _copy_inits(model, config, log)
    load = partial(
        load_clips, cache=cache, config=expert_config, workers=config.data.workers, audio_features=features, log=log
    )
    if not group.is_main:
        group.wait()  # for the main process, which fills the cache
    data = load(", ".join(folders), entries, shortest=config.recipe.shortest)
    val = load(config.data.val, val_entries, shortest=SHORTEST_VAL) if config.data.val else None
    if group.is_main:
        group.wait()
    if "visual" not in copied:
        standardise(model.expert, data)
    stepper = Stepper(config, model.to(device), data, repeat=repeat)
    return Trainer(config, stepper, config.stages(expert_config) if stages is None else stages, val, log)


def _copy_inits(model: TrainingModel, config: TrainConfig, log: Callable[[str], None]) -> set[str]:
    """Copy the towers of ``run.init``; returns the sides that were copied."""
    copied: set[str] = set()
    for init in config.run.init:
        copied |= (sides := copy_towers(model.expert, init))
        log(f"copied from {init}: {' and '.join(sorted(sides))}")
    if copied == {"audio"} and model.expert.config.has_mouth_aligner:
        raise ValueError(
            "run.init: expected an expert on rgb among them, whose mouth aligner is copied; "
            f"got {', '.join(config.run.init)}"
        )
    if config.run.freeze and config.run.freeze not in copied:
        raise ValueError(f"run.freeze: expected a copied tower ({', '.join(copied)}), got {config.run.freeze}")
    return copied


class Trainer:
    """The loop over stages and steps of a run.

    Args:
        config: of the run.
        stepper: takes the steps.
        stages: of the run.
        val: validation clips.
        log: takes lines of progress.

    Attributes:
        stage: index of the current stage.
        step: steps taken in it.
        samples: windows and views that have entered a loss.
        stopped: whether the run was asked to stop; all processes stop after the same step.
    """

    def __init__(
        self,
        config: TrainConfig,
        stepper: Stepper,
        stages: Sequence[StageSpec],
        val: CachedClipDataset | None,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.stepper, self.stages, self.val, self.log = config, stepper, stages, val, log
        self.out, self.group, self.expert = Path(config.run.out), stepper.group, stepper.model.expert
        self.run_log = RunLog(self.out, stages, log, enabled=self.group.is_main)
        self.checkpoints = CheckpointKeeper(self.out)
        self.lock = FileLock(self.out / ".lock")
        self.stage, self.step, self.samples = 0, 0, 0
        self.stopped = False
        self._asked_to_stop = False  # this process

    def begin(self, *, resume: bool) -> None:
        """Make the folder, and load the last saved state if there is one to resume."""
        settings = as_dict(self.config) | {"expert": vars(self.expert.config)}
        if self.group.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock()
            remove_unfinished(self.out / STATE)
            write_atomically(self.out / "config.yaml", to_yaml(self.config, self.expert.config))
        self.group.wait()
        if resume and (self.out / STATE).exists():
            self.load()
        self.run_log.begin(self.stage, self.step, settings)

    def _lock(self) -> None:
        """Keep the folder to this process until it ends; two runs would write over each other's states."""
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(
                f"{self.out}: another process trains in this folder: stop it first, or choose another --out"
            ) from None

    def run(self) -> None:
        """Run the remaining stages. SIGTERM saves the state and stops."""
        previous = signal.signal(signal.SIGTERM, self._ask_to_stop)
        try:
            while self.stage < len(self.stages) and not self.stopped:
                self._run_stage()
            if self.stopped:
                self.save()
                self.log("stopped; --resume continues from here")
        finally:
            signal.signal(signal.SIGTERM, previous)
            self.close()
        # validation crops mouths by landmarks; scoring a file crops them by the aligner, which shifts the scores
        aligned = self.expert.config.has_mouth_aligner and (self.config.run.init or self._trains_aligner())
        if not self.stopped and self.group.is_main and self.config.data.val and self.checkpoints.has_best and aligned:
            self.log("choosing the threshold on the validation files")
            self.checkpoints.choose_threshold(self.config.data.val)

    def _trains_aligner(self) -> bool:
        return any(isinstance(spec.objective, MouthAlignerStage) and spec.steps > 0 for spec in self.stages)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_stop = True

    def steps(self) -> Iterator[dict[str, Tensor]]:
        """Take the remaining steps of the current stage, and yield the terms of each."""
        spec = self.stages[self.stage]
        self.stepper.prepare(spec)
        while self.step < spec.steps and not self.stopped:
            terms = self.stepper.step(spec, (self.stage, self.step))
            self.step += 1
            self.samples += self.stepper.windows
            yield terms

    def _run_stage(self) -> None:
        spec, config = self.stages[self.stage], self.config.run
        watch = self.plateau_watch() if spec.objective.learns_sync else None
        rates, saved = _Throughput(self.stepper, self.step, spec.steps), time.monotonic()
        for terms in self.steps():
            last, now = self.step == spec.steps, time.monotonic()
            stuck = watch is not None and watch.update(terms["margin"].item())
            if now - rates.last > _LOG_SECONDS or last or stuck:
                self._log_step(spec, terms, watch, rates.since(self.step, now))
            if stuck and watch is not None:
                self._diagnose(terms, watch)
            if spec.objective.learns_sync and (self.step % config.val_every == 0 or last):
                self._validate(spec)
            self.stopped = self.group.any(self._asked_to_stop, self.stepper.device)
            if now - saved > 60 * config.save_minutes and not last:
                self.save()
                saved = now
        if not self.stopped:
            self.stage, self.step, self.stepper.optimiser = self.stage + 1, 0, None
            self.save()
            self.run_log.summarise()

    def plateau_watch(self) -> PlateauWatch:
        """Build a watch over the chance-level loss of this run's margins."""
        expert, recipe = self.expert.config, self.config.recipe
        margins = expert.margin_same, expert.margin_cross
        return PlateauWatch(margins, recipe.cross_share, recipe.positive_share, self.config.run.plateau_steps)

    def _diagnose(self, terms: dict[str, Tensor], watch: PlateauWatch) -> None:
        values = {key: value.item() for key, value in terms.items()}
        for line in diagnose(values, watch, len(self.stepper.data), self.config.data.folders):
            self.log(line)

    def _log_step(
        self, spec: StageSpec, terms: dict[str, Tensor], watch: PlateauWatch | None, rates: dict[str, Any]
    ) -> None:
        record: dict[str, Any] = {"stage": spec.name, "step": self.step}
        record |= {key: round(value.item(), 4) for key, value in terms.items() if torch.isfinite(value)}
        if watch is not None:
            record |= {"plateau": round(watch.value, 4), "on_plateau": watch.on}
        self.run_log.write(record | rates)

    def _validate(self, spec: StageSpec) -> None:
        """Validate and save the averaged networks, in the main process; the others wait."""
        if self.group.is_main:
            report = validate(self.stepper.average, self.val) if self.val is not None else None
            if report is not None:
                self.run_log.write({"stage": spec.name, "step": self.step, "samples": self.samples, **report})
            self.checkpoints.keep(self.stepper.average.expert, report)
            self.run_log.summarise()
        self.group.wait()

    def save(self) -> None:
        """Write the whole state, atomically."""
        stepper = self.stepper
        if not self.group.is_main:
            return
        if not all(torch.isfinite(weights).all() for weights in stepper.model.parameters()):
            return  # the next loss stops the run, and the last good state stays
        place: dict[str, Any] = {"stage": self.stage, "step": self.step, "best": self.checkpoints.best}
        place |= {"samples": self.samples, "config": as_dict(self.config), "scaler": stepper.scaler.state_dict()}
        save_state(self.out / STATE, stepper.model, stepper.average, stepper.optimiser, place)

    def load(self) -> None:
        """Return to the last saved state."""
        stepper = self.stepper

        def prepare(stage: int) -> torch.optim.Optimizer | None:
            if stage < len(self.stages):
                stepper.prepare(self.stages[stage])
            return stepper.optimiser

        place = load_state(self.out / STATE, stepper.model, stepper.average, prepare)
        self.stage, self.step, self.samples = place["stage"], place["step"], place["samples"]
        self.checkpoints.best = place["best"]
        if place["scaler"]:
            stepper.scaler.load_state_dict(place["scaler"])
        self.log(f"resumed at stage {self.stage}, step {self.step}")

    def close(self) -> None:
        """Stop the drawing thread, finish the loggers and let go of the folder."""
        self.stepper.close()
        self.run_log.close()
        self.lock.release()


class _Throughput:
    """Samples per second, share of the time spent waiting for data, and time left."""

    def __init__(self, stepper: Stepper, step: int, steps: int) -> None:
        self.stepper, self.step = stepper, step
        self.progress = Progress(lambda line: None, steps, done=step)
        self.last = time.monotonic()
        self.waited = stepper.waited

    def since(self, step: int, now: float) -> dict[str, Any]:
        """Values since the last call."""
        seconds, done = max(now - self.last, 1e-9), step - self.step
        waited = self.stepper.waited - self.waited
        self.last, self.step, self.waited = now, step, self.stepper.waited
        return {
            "samples_per_second": round(done * self.stepper.windows / seconds, 1),
            "data_wait": round(waited / seconds, 3),
            "seconds_left": round(self.progress.seconds_left(step)),
        }
