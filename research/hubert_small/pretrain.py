"""Training of a small HuBERT on speech: writes ``RUN/hubert``, ``RUN/log.jsonl`` and ``RUN/config.yaml``.

Two rounds as in arXiv 2106.07447: units of MFCC, then units of the first round's own features. Unlike the paper's,
the second round continues from the weights of the first: on a few hours of speech that saves half the steps. The
random generator is seeded by (seed, round, step) at every step, so that a resumed run uses the same batches. An
optional third round distils the audio embeddings of an expert on mel
(:class:`research.hubert_small.tasks.DistillationTask`); ``RUN/expert`` is then that expert with HuBERT audio.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from research.hubert_small.abx import abx_error, draw_sentences
from research.hubert_small.masked_prediction import CropDrawer, HubertSize
from research.hubert_small.speech import list_speech, load_speech
from research.hubert_small.tasks import DistillationTask, HubertAudioTower, Material, Task, UnitsTask
from research.hubert_small.units import mfcc_with_deltas
from unisync_loss import save_pretrained
from unisync_loss.representations.hubert_encoder import standardise, steps_of
from unisync_loss.training.checkpoint import load_state, save_state
from unisync_loss.training.data.sampler import speaker_weights
from unisync_loss.training.step import adamw, update_average
from unisync_loss.utils.files import write_atomically
from unisync_loss.utils.progress import Progress
from unisync_loss.utils.schedule import warm_up_cosine

if TYPE_CHECKING:
    from transformers import HubertModel

HELD_OUT = 0.05  # share of the speakers, of those with no more than the mean share of speech
MODEL, EXPERT, STATE = "hubert", "expert", "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of a run, saved as ``RUN/config.yaml``.

    Args:
        data: folders, see :func:`research.hubert_small.speech.list_speech`.
        out: folder of the run.
        cache: folder of the decoded speech, shared by runs; default ``OUT/cache``.
        seed: seed of all random draws.
        size: size of the HuBERT.
        units: number of units of the first and the second round.
        steps: steps of the first and the second round.
        ear: expert on mel whose audio embeddings are distilled in a third round; None for no third round.
        ear_steps: steps of the third round.
        batch_seconds: seconds of speech per batch.
        learning_rate: peak of the cosine schedule, after a warm-up of a twelfth of the steps.
        weight_decay: decoupled, of weights with more than one axis.
        ema: decay of the averaged weights that are validated and saved.
        val_every: steps between validations.
        save_minutes: minutes between saves of the state.
        device: ``"cuda"`` (then in bfloat16) or ``"cpu"``.
    """

    data: tuple[str, ...]
    out: str
    cache: str | None = None
    seed: int = 0
    size: HubertSize = field(default_factory=HubertSize)
    units: tuple[int, int] = (100, 500)
    steps: tuple[int, int] = (8000, 16000)
    ear: str | None = None
    ear_steps: int = 4000
    batch_seconds: float = 320.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    val_every: int = 500
    save_minutes: float = 3.0
    device: str = "cpu"


def pretrain(config: PretrainConfig, *, resume: bool, log: Callable[[str], None]) -> None:
    """Run all rounds.

    Args:
        config: settings of the run.
        resume: continue from ``OUT/state.safetensors`` if it exists.
        log: called with lines of progress.

    Raises:
        ValueError: for unusable data, fewer than two speakers, or a device that is not available.
        FileExistsError: if ``OUT`` contains a run and ``resume`` is False.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu, as there is no CUDA device, got cuda")
    out = Path(config.out)
    if (out / "log.jsonl").exists() and not resume:
        raise FileExistsError(f"{out} holds a run: pass --resume to go on, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(config, log)
    write_atomically(out / "config.yaml", yaml.safe_dump(asdict(config)))
    if resume and (out / STATE).exists():
        run.load()
    run.go()


def hold_out(speaker: NDArray[np.int64], length: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose the held-out recordings: those of a twentieth of the speakers, none with more speech than average.

    Raises:
        ValueError: for fewer than two speakers.
    """
    total = np.bincount(speaker, weights=length)
    if len(total) < 2:
        raise ValueError(f"expected at least two speakers, one to be held out, got {len(total)}")
    quiet = np.flatnonzero(total <= total.mean())
    chosen = np.random.default_rng([seed, 7]).permutation(quiet)[: max(1, round(HELD_OUT * len(total)))]
    return np.isin(speaker, chosen[: len(total) - 1])


class _Run:
    """State of a run: network, averaged network, place."""

    def __init__(self, config: PretrainConfig, log: Callable[[str], None]) -> None:
        self.config, self.log, self.out = config, log, Path(config.out)
        self.device = torch.device(config.device)
        recordings = [recording for folder in config.data for recording in list_speech(folder)]
        speech = load_speech(recordings, Path(config.cache or self.out / "cache"), log)
        held = hold_out(speech.speaker, speech.steps, config.seed)
        sampling_weights = np.where(held, 0.0, speaker_weights(speech.speaker, speech.steps))
        drawer = CropDrawer(speech, sampling_weights / sampling_weights.sum(), self.device)
        material = Material(drawer, held, config.batch_seconds, config.seed, self.out)
        self.tasks: list[tuple[Task[Any], int]] = [
            (UnitsTask(material, number, units), steps)
            for number, (units, steps) in enumerate(zip(config.units, config.steps, strict=True))
        ]
        if config.ear:
            self.tasks.append((DistillationTask(material, config.ear), config.ear_steps))
        self.round, self.step = 0, 0
        self.learner: nn.Module
        self.average: nn.Module
        self.optimiser: torch.optim.Optimizer | None = None
        self.stopped = False
        self._build()
        parameters = sum(p.numel() for p in self._hubert(self.learner).parameters())
        log(
            f"{len(held)} recordings of {len(speech.speakers)} people, {speech.steps.sum() / 180e3:.2f} "
            f"h, {held.sum()} held out, {len(speech.skipped)} skipped; {parameters / 1e6:.2f} M parameters"
        )

    def _hubert(self, network: nn.Module) -> HubertModel:
        hubert: HubertModel = network.get_submodule("hubert")
        return hubert

    def _build(self) -> None:
        """Build the networks of the current round; each round has a new head."""
        torch.manual_seed(self.config.seed + self.round)
        task, size = self.tasks[self.round][0], self.config.size
        earlier = self._hubert(self.average).state_dict() if self.round else None
        self.learner = task.build(size).to(self.device)
        if earlier is not None:
            self._hubert(self.learner).load_state_dict(earlier)
        self.average = task.build(size).to(self.device).eval()
        self.average.load_state_dict(self.learner.state_dict())

    def go(self) -> None:
        """Run the remaining rounds."""
        previous = signal.signal(signal.SIGTERM, self._stop)
        try:
            while self.round < len(self.tasks) and not self.stopped:
                self._run_round(*self.tasks[self.round])
        finally:
            signal.signal(signal.SIGTERM, previous)
        if self.stopped:
            self.save()
            self.log("stopped; --resume goes on from here")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

    def _run_round(self, task: Task[Any], steps: int) -> None:
        with torch.no_grad():
            self._write_record({"round": self.round + 1, **task.begin(self._states if self.round else None, self.log)})
        self._prepare()
        written = saved = time.monotonic()
        progress = Progress(self.log, steps, done=self.step)
        losses: list[float] = []
        while self.step < steps and not self.stopped:
            losses.append(self._advance(task, steps))
            now = time.monotonic()
            if now - written > 10 or self.step in (1, steps):
                left = round(progress.seconds_left(self.step))
                loss = round(float(np.mean(losses)), 4)
                self._write_record({"round": self.round + 1, "step": self.step, "loss": loss, "seconds_left": left})
                written, losses = now, []
            if self.step % self.config.val_every == 0 or self.step == steps:
                self._validate(task)
            if now - saved > 60 * self.config.save_minutes:
                self.save()
                saved = now
        if not self.stopped:
            self._measure_abx()
            self.round, self.step, self.optimiser = self.round + 1, 0, None
            if self.round < len(self.tasks):
                self._build()
            self.save()

    def _states(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """Features (L, F) of a waveform (S,) by the averaged network: layers 0 …, then the output."""
        with self._precision():
            out = self._hubert(self.average)(standardise(waveform[None].to(self.device)), output_hidden_states=True)
        return tuple(state[0].float() for state in (*out.hidden_states, out.last_hidden_state))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _prepare(self) -> None:
        self.learner.train()
        moments = self.optimiser.state_dict() if self.optimiser is not None else None
        self.optimiser = adamw(
            self.learner.parameters(), self.config.learning_rate, self.config.weight_decay, (0.9, 0.98)
        )
        if moments is not None:
            self.optimiser.load_state_dict(moments)

    def _advance(self, task: Task[Any], steps: int) -> float:
        assert self.optimiser is not None
        generator = np.random.default_rng([self.config.seed, self.round, self.step])
        torch.manual_seed(int(generator.integers(2**62)))
        rate = self.config.learning_rate * warm_up_cosine(self.step, steps, warm_up=steps / 12)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with self._precision():
            loss = task.loss(self.learner, generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {self.step} of round {self.round + 1}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        update_average(self.average, self.learner, self.config.ema, self.step)
        return loss.item()

    @torch.no_grad()
    def _validate(self, task: Task[Any]) -> None:
        """Measure on held-out speakers, then save the HuBERT, and in the third round the expert on it."""
        with self._precision():
            report = task.measure(self.average, np.random.default_rng([self.config.seed, self.round]))
        rounded = {name: round(value, 4) for name, value in report.items()}
        self._write_record({"round": self.round + 1, "step": self.step, **rounded})
        save_hubert(self._hubert(self.average), self.out / MODEL)
        if isinstance(task, DistillationTask) and isinstance(self.average, HubertAudioTower):
            save_pretrained(task.expert_of(self.average, self.out / MODEL), self.out / EXPERT)

    @torch.no_grad()
    def _measure_abx(self) -> None:
        """ABX error on synthetic speech, of layers 0 …, of the output, and of MFCC."""
        sentences = draw_sentences()
        waveforms = [torch.from_numpy(sentence.waveform) for sentence in sentences]
        states = [self._states(waveform) for waveform in waveforms]
        mfcc = [mfcc_with_deltas(waveform, steps_of(len(waveform))) for waveform in waveforms]
        own = [abx_error(sentences, [layers[index] for layers in states]) for index in range(len(states[0]))]
        errors = {"abx_error_of_layers": [round(error, 4) for error in own]}
        self._write_record(
            {"round": self.round + 1, **errors, "abx_error_of_mfcc": round(abx_error(sentences, mfcc), 4)}
        )

    def _write_record(self, record: dict[str, Any]) -> None:
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.log("  ".join(f"{key} {value}" for key, value in record.items()))

    def save(self) -> None:
        """Write the whole state, atomically."""
        place = {"stage": self.round, "step": self.step, "config": asdict(self.config)}
        save_state(self.out / STATE, self.learner, self.average, self.optimiser, place)

    def load(self) -> None:
        """Restore the last saved state."""
        with safe_open(self.out / STATE, framework="pt") as file:
            place = json.loads(file.metadata()["place"])
        self.round, self.step = place["stage"], place["step"]
        if self.round < len(self.tasks):
            self._build()

            def prepare(_: int) -> torch.optim.Optimizer | None:
                self._prepare()
                return self.optimiser

            load_state(self.out / STATE, self.learner, self.average, prepare)
        self.log(f"resumed at round {self.round + 1}, step {self.step}")


def save_hubert(hubert: HubertModel, folder: Path) -> None:
    """Write a folder that :class:`HubertEncoder` loads, weights in float16."""
    from transformers import Wav2Vec2FeatureExtractor

    folder.mkdir(parents=True, exist_ok=True)
    config = hubert.config
    config.architectures = ["HubertModel"]
    write_atomically(folder / "config.json", config.to_json_string())
    write_atomically(folder / "preprocessor_config.json", Wav2Vec2FeatureExtractor(do_normalize=True).to_json_string())
    weights = {name: value.half().cpu().contiguous() for name, value in hubert.state_dict().items()}
    write_atomically(folder / "model.safetensors", save_tensors(weights, {"format": "pt"}))
