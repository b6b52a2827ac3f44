"""Training of a student: writes ``RUN/expert``, for HuBERT ``RUN/hubert``, ``RUN/log.jsonl`` and ``RUN/config.yaml``.

The random generator is seeded by (seed, step) at every step, so that a resumed run uses the same batches.
"""

from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from research.audio_students.crops import hold_out
from research.audio_students.lesson import Lesson
from research.audio_students.saving import save_student
from research.audio_students.speech import list_speech, load_speech
from research.audio_students.students import HubertStudent, MelStudent, Student, load_hubert
from research.audio_students.targets import Targets, Teacher
from unisync_loss import load_expert
from unisync_loss.training.checkpoint import STATE, load_state, save_state
from unisync_loss.training.step import adamw, update_average
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress
from unisync_loss.utils.schedule import warm_up_cosine


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Settings of a run, saved as ``RUN/config.yaml``.

    Args:
        teacher: expert on Whisper, as ``load_expert`` takes it.
        student: ``"mel"`` or ``"hubert"``.
        data: folders, see :func:`research.audio_students.speech.list_speech`.
        out: folder of the run.
        cache: folder of the decoded speech and the teacher's targets, shared by runs; default ``OUT/cache``.
        seed: seed of all random draws.
        steps: number of steps.
        init: expert on the student's features, as ``load_expert`` takes it, whose audio tower (and HuBERT) the student
            starts from; None for a random tower on mel.
        hubert: HuBERT to start from instead, as ``HubertEncoder.from_pretrained`` takes it; the audio tower is then the
            teacher's, except for the layer that takes the features.
        regression_weight: weight of a HuBERT's regression of the states of Whisper.
        batch_seconds: seconds of speech per batch.
        learning_rate: peak of the cosine schedule, after a warm-up of a twelfth of the steps.
        weight_decay: decoupled, of weights with more than one axis.
        ema: decay of the averaged weights that are validated and saved.
        val_every: steps between validations.
        save_minutes: minutes between saves of the state.
        device: ``"cuda"`` (then in bfloat16) or ``"cpu"``.

    Raises:
        ValueError: for a student on HuBERT without ``init`` and ``hubert``, or with both; one on mel with ``hubert``.
    """

    teacher: str
    student: Literal["mel", "hubert"]
    data: tuple[str, ...]
    out: str
    cache: str | None = None
    seed: int = 0
    init: str | None = None
    hubert: str | None = None
    steps: int = 4000
    regression_weight: float = 0.2
    batch_seconds: float = 32.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    val_every: int = 500
    save_minutes: float = 3.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check."""
        starts = (self.init is not None) + (self.hubert is not None)
        if starts != 1 and self.student == "hubert":
            raise ValueError(
                f"expected either init or hubert for a student on HuBERT, got {'both' if starts else 'none'}"
            )
        if self.hubert is not None and self.student == "mel":
            raise ValueError(f"hubert: expected none for a student on mel, got {self.hubert}")


def train_student(config: StudentConfig, *, resume: bool, log: Callable[[str], None]) -> None:
    """Compute the teacher's targets where they are missing, then train.

    Args:
        config: settings of the run.
        resume: continue from ``OUT/state.safetensors`` if it exists.
        log: called with lines of progress.

    Raises:
        ValueError: for a teacher on other features than Whisper's, unusable data, fewer than two speakers, or a device
            that is not available.
        FileExistsError: if ``OUT`` contains a run and ``resume`` is False.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu, as there is no CUDA device, got cuda")
    out = Path(config.out)
    if (out / "log.jsonl").exists() and not resume:
        raise FileExistsError(f"{out} holds a run: pass --resume to go on, or choose another --out")
    teacher = Teacher(config.teacher, torch.device(config.device))
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(config, teacher, log)
    write_atomically(out / "config.yaml", yaml.safe_dump(asdict(config)))
    if resume and (out / STATE).exists():
        run.load()
    run.go()


class _Run:
    """State of a run: network, averaged network, optimiser and step."""

    def __init__(self, config: StudentConfig, teacher: Teacher, log: Callable[[str], None]) -> None:
        self.config, self.teacher, self.log, self.out = config, teacher, log, Path(config.out)
        self.device = torch.device(config.device)
        recordings = [recording for folder in config.data for recording in list_speech(folder)]
        cache = Path(config.cache or self.out / "cache")
        speech = load_speech(recordings, cache, log)
        held = hold_out(speech.speaker, speech.frames, config.seed)
        torch.manual_seed(config.seed)
        self.student = build_student(config, teacher).to(self.device)
        self.average = copy.deepcopy(self.student).eval()
        networks = [self.student.tower, *([self.student.hubert] if isinstance(self.student, HubertStudent) else [])]
        parameters = sum(value.numel() for network in networks for value in network.parameters())
        log(
            f"{len(held)} recordings of {len(speech.speakers)} people, {speech.frames.sum() / 90e3:.2f} h, "
            f"{held.sum()} held out, {len(speech.skipped)} skipped; {parameters / 1e6:.2f} M parameters"
        )
        targets = Targets(cache / "targets", speech, teacher, states=config.student == "hubert", log=log)
        self.lesson = Lesson(speech, held, targets, self.student.crop_seconds, config.regression_weight, self.device)
        self.step = 0
        self.optimiser = self._make_optimiser()
        self.stopped = False

    def _make_optimiser(self) -> torch.optim.Optimizer:
        return adamw(self.student.parameters(), self.config.learning_rate, self.config.weight_decay, (0.9, 0.98))

    def go(self) -> None:
        """Run the remaining steps."""
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            if self.step < self.config.steps:
                self._train()
        finally:
            signal.signal(signal.SIGTERM, previous)
        if self.stopped:
            self.log("stopped; --resume goes on from here")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

    def _train(self) -> None:
        steps = self.config.steps
        written = saved = time.monotonic()
        progress = Progress(self.log, steps, done=self.step)
        passed: list[dict[str, float]] = []
        while self.step < steps and not self.stopped:
            passed.append({name: value.item() for name, value in self._advance().items()})
            now = time.monotonic()
            if now - written > 10 or self.step in (1, steps):
                terms = {name: float(np.mean([terms[name] for terms in passed])) for name in passed[-1]}
                self._write_record(terms | {"seconds_left": round(progress.seconds_left(self.step))})
                written, passed = now, []
            if self.step % self.config.val_every == 0 or self.step == steps:
                self._validate()
            if now - saved > 60 * self.config.save_minutes:
                self.save()
                saved = now
        self.save()

    def _advance(self) -> dict[str, Tensor]:
        """Take a step; returns its terms."""
        config = self.config
        generator = np.random.default_rng([config.seed, self.step])
        torch.manual_seed(int(generator.integers(2**62)))
        rate = config.learning_rate * warm_up_cosine(self.step, config.steps, warm_up=config.steps / 12)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        places = self.lesson.drawer.draw(generator, config.batch_seconds)
        self.student.train()
        with self.device, self._precision():
            terms = self.lesson.terms(self.student, places)
        if not torch.isfinite(terms["loss"]):
            raise FloatingPointError(f"loss is {terms['loss'].item()} at step {self.step}")
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        update_average(self.average, self.student, config.ema, self.step)
        return {name: value.detach() for name, value in terms.items()}

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @torch.no_grad()
    def _validate(self) -> None:
        """Measure on held-out speakers, then save the student."""
        with self._precision():
            self._write_record(self.lesson.measure(self.average))
        save_student(self.average, self.teacher.expert, self.out)

    def _write_record(self, values: dict[str, float]) -> None:
        record = {"step": self.step, **{name: round(value, 4) for name, value in values.items()}}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.log("  ".join(f"{key} {value}" for key, value in record.items()))

    def save(self) -> None:
        """Write the whole state, atomically."""
        place: dict[str, Any] = {"stage": 0, "step": self.step, "config": asdict(self.config)}
        save_state(self.out / STATE, self.student, self.average, self.optimiser, place)

    def load(self) -> None:
        """Restore the last saved state."""
        place = load_state(self.out / STATE, self.student, self.average, lambda _: self.optimiser)
        self.step = place["step"]
        self.log(f"resumed at step {self.step}")


def build_student(config: StudentConfig, teacher: Teacher) -> Student:
    """Build the student of a config.

    Raises:
        ValueError: for an expert to start from on other features.
    """
    own, states = teacher.expert.config, len(teacher.layers)
    if config.hubert is not None:
        student = HubertStudent(own, load_hubert(config.hubert), states)
        copy_fitting(student.tower, teacher.expert.audio_tower)
        return student
    start = load_expert(config.init) if config.init is not None else None
    if start is not None and start.config.audio != config.student:
        raise ValueError(f"init: expected an expert on {config.student}, got {config.init} on {start.config.audio}")
    if config.student == "mel":
        return MelStudent(own, start)
    assert start is not None  # or the config would have been refused
    return HubertStudent(own, load_hubert(start.config.audio_model, start.config.audio_revision), states, start)


def copy_fitting(target: nn.Module, source: nn.Module) -> None:
    """Copy the weights that have the same name and shape in both."""
    wanted = target.state_dict()
    fitting = {name: value for name, value in source.state_dict().items() if value.shape == wanted[name].shape}
    target.load_state_dict(wanted | fitting)
