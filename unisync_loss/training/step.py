"""AdamW that decays matrices only, and a running average of the weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unisync_loss.training.config import TrainConfig
from unisync_loss.training.data.batches import TrainingBatch
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import TrainingModel
from unisync_loss.training.stages import Stage, parameters_of, trained_modules
from unisync_loss.utils.distributed import ProcessGroup, convert_batch_norms
from unisync_loss.utils.schedule import linear_warm_up, warm_up_cosine


def adamw(
    parameters: Iterable[Tensor], rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW with decay of weights with more than one axis only."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=betas)


@torch.no_grad()
def update_average(average: nn.Module, learner: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards the learner's; ``step`` counts from 1 and lets a young average follow closely."""
    # without this it would remember the random start
    decay = min(decay, step / (step + 10))
    for mean, value in zip(average.state_dict().values(), learner.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _Next(NamedTuple):
    """The batches of a step and the seed of what is drawn on the device."""

    seeds: list[int]
    batches: list[Any]


class Engine:
    """Networks, averaged networks and the optimiser of the present stage.

    Args:
        config: of the run.
        learner: to be trained, on its device.
        data: training clips.
        group: processes that share the work.
    """

    def __init__(
        self, config: TrainConfig, learner: TrainingModel, data: CachedClipDataset, group: ProcessGroup
    ) -> None:
        """Copy the networks for the average."""
        self.config, self.learner, self.data, self.group = config, learner, data, group
        self.device = next(learner.parameters()).device
        learner.group = group
        self.average = copy.deepcopy(learner).eval()
        if group.size > 1:
            convert_batch_norms(learner)
        self.optimiser: torch.optim.Optimizer | None = None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")  # type: ignore[attr-defined]
        self.waited = 0.0  # seconds in which batches were not there yet
        self.windows = 0  # of the last step, of all processes
        self._drawer = ThreadPoolExecutor(1)
        self._drawn: tuple[tuple[int, int], Future[_Next]] | None = None

    def prepare(self, stage: Stage[Any], rate: float) -> None:
        """Freeze what the stage does not train, and make its optimiser; moments are kept where there are some."""
        self.learner.eval().requires_grad_(False)
        freeze = self.config.freeze
        for module in trained_modules(stage, self.learner, freeze):
            module.train()
            if self.config.compile:
                module.compile(dynamic=False)  # a stage's batches are all of one shape
        for module in self.learner.modules():
            if isinstance(module, nn.Dropout) and not self.config.augment:
                module.eval()
        parameters = [parameter.requires_grad_(True) for parameter in parameters_of(stage, self.learner, freeze)]
        moments = self.optimiser.state_dict() if self.optimiser is not None else None
        self.optimiser = make_optimiser(parameters, self.config, rate)
        if moments is not None:
            self.optimiser.load_state_dict(moments)

    def step(self, stage: Stage[Any], place: tuple[int, int], steps: int, rate: float) -> dict[str, Tensor]:
        """Take a step.

        Args:
            stage: prepared.
            place: number of the stage, and of the step, from 0.
            steps: of the stage.
            rate: peak learning rate.

        Returns:
            Means of the terms, on the device: nobody waits for a GPU here.
        """
        assert self.optimiser is not None
        for group in self.optimiser.param_groups:
            group["lr"] = rate * learning_share(place[1], steps, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        seeds, batches = self._take(stage, place, place[1] + 1 < steps)
        for seed, batch in zip(seeds, batches, strict=True):
            torch.manual_seed(seed)
            terms = self._terms(stage, batch.to(self.device))
            if not torch.isfinite(terms["loss"]):
                self.fail(batch, place, terms)
            self.scaler.scale(terms["loss"] / len(batches)).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach() / len(batches)
        self.windows = self.group.size * sum(batch.windows for batch in batches)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.group.average_gradients(parameters)
        self.scaler.unscale_(self.optimiser)
        if self.config.clip_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        update_average(self.average, self.learner, self.config.ema, place[1] + 1)
        return sums

    def _terms(self, stage: Stage[Any], batch: TrainingBatch) -> dict[str, Tensor]:
        precision = _DTYPES.get(self.config.precision)
        # what augmentation draws is made on the device
        with self.device, torch.autocast(self.device.type, precision or torch.bfloat16, enabled=precision is not None):
            return stage.loss(self.learner, batch)

    def _take(self, stage: Stage[Any], place: tuple[int, int], more: bool) -> _Next:
        """The batches of this step; those of the next are drawn while it is computed."""
        if self._drawn is None or self._drawn[0] != place:
            self._drawn = (place, self._drawer.submit(self._draw, stage, place))
        began = time.perf_counter()
        drawn = self._drawn[1].result()
        self.waited += time.perf_counter() - began
        following = (place[0], place[1] + 1)
        self._drawn = (following, self._drawer.submit(self._draw, stage, following)) if more else None
        return drawn

    def _draw(self, stage: Stage[Any], place: tuple[int, int]) -> _Next:
        step = 0 if self.config.overfit else place[1]
        seeds, batches = [], []
        for number in range(step * self.config.accumulate, (step + 1) * self.config.accumulate):
            generator, seed = self.generator(place[0], number)
            seeds.append(seed + self.group.rank)
            batches.append(stage.draw(self.data, generator, self.group))
        return _Next(seeds, batches)

    def generator(self, stage: int, number: int) -> tuple[np.random.Generator, int]:
        """Source of chance of a batch, and the seed of what is drawn while it is computed."""
        generator = np.random.default_rng([self.config.seed, stage, number])
        return generator, int(generator.integers(2**62))

    def fail(self, batch: TrainingBatch, place: tuple[int, int], terms: dict[str, Tensor]) -> None:
        """Save the batch whose loss is not a number, and stop.

        Raises:
            FloatingPointError: always.
        """
        path = Path(self.config.out) / f"bad-batch-{place[0]}-{place[1]}-{self.group.rank}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)  # a self-test has made none
        save_file({name: value.cpu().contiguous() for name, value in batch.tensors().items()}, path)
        shown = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        raise FloatingPointError(
            f"step {place[1]} of stage {place[0]}: expected a finite loss, got {shown}; the batch is in {path}. The "
            "last saved state is whole: --resume with a smaller learning_rate, or with precision=fp32"
        )

    def close(self) -> None:
        """Let the drawing thread go."""
        self._drawer.shutdown(cancel_futures=True)


def check_compiler(device: torch.device) -> None:
    """Compile something small: what is missing is told before a run has begun.

    Args:
        device: to compile for.

    Raises:
        ValueError: without a compiler that works.
    """
    torch.compiler.reset()  # several runs of one process would use up the number of networks that are compiled
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:
        wanted = "a C++ compiler such as g++" if device.type == "cpu" else "Triton and a C compiler"
        [reason, *_] = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"compile: expected {wanted} that works, got: {reason}; without, set compile=false") from error


def make_optimiser(parameters: Sequence[Tensor], config: TrainConfig, rate: float) -> torch.optim.Optimizer:
    """The optimiser of a recipe.

    ``adam`` adds the decay to the gradient, of all parameters: the paper's L2 term once, as PyTorch's Adam has it
    (peers.md 8.3). ``adamw`` decays weights with more than one axis only.
    """
    betas = (config.betas[0], config.betas[1])
    if config.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=betas, weight_decay=config.weight_decay)
    return adamw(parameters, rate, config.weight_decay, betas)


def learning_share(step: int, steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at a step: warm-up, then a cosine or a constant."""
    warm_up = min(100, steps // 10 + 1) if config.warm_up is None else config.warm_up
    if config.schedule == "constant":
        return linear_warm_up(step, warm_up)
    return warm_up_cosine(step, steps, warm_up)
