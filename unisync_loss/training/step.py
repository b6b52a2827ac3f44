"""Optimiser steps: batches drawn ahead, precision, schedule, averaged weights."""

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

from unisync_loss.training.config import OptimiserConfig, TrainConfig
from unisync_loss.training.data.batches import TrainingBatch
from unisync_loss.training.data.dataset import CachedClipDataset
from unisync_loss.training.model import TrainingModel
from unisync_loss.training.stages import Stage, StageSpec, parameters_of, trained_modules
from unisync_loss.utils.distributed import convert_batch_norms
from unisync_loss.utils.schedule import linear_warm_up, warm_up_cosine


def adamw(
    parameters: Iterable[Tensor], rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """AdamW with decay of weights with more than one axis only."""
    parameters = list(parameters)
    # biases and norms have one axis; decaying them would shift activations without simplifying the network
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=betas)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Update the moving average of the weights; ``step`` counts from 1."""
    # a young average follows closely, or it would be dominated by the random start
    decay = min(decay, step / (step + 10))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _Batches(NamedTuple):
    """The batches of a step, and for each the seed of the random draws on the device."""

    seeds: list[int]
    batches: list[Any]


class Stepper:
    """Networks, averaged networks and the optimiser of the present stage.

    Args:
        config: of the run.
        model: to be trained, on its device.
        data: training clips.
        repeat: take every step on the batch of the first.

    Attributes:
        average: exponential moving average of the networks.
        waited: seconds spent waiting for batches.
        windows: windows of the last step, of all processes.
    """

    def __init__(
        self, config: TrainConfig, model: TrainingModel, data: CachedClipDataset, *, repeat: bool = False
    ) -> None:
        self.config, self.model, self.data, self.group = config, model, data, model.group
        self.device = next(model.parameters()).device
        self.average = copy.deepcopy(model).eval()
        # otherwise each process would normalise by the statistics of its own few clips
        if self.group.size > 1:
            convert_batch_norms(model)
        self.optimiser: torch.optim.Optimizer | None = None
        fp16 = config.optimiser.precision == "fp16"
        if hasattr(torch.amp, "GradScaler"):
            self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        else:  # before PyTorch 2.3, where a CPU has none
            self.scaler = torch.cuda.amp.GradScaler(enabled=fp16)
        self.waited = 0.0
        self.windows = 0
        self._repeat = repeat
        self._thread = ThreadPoolExecutor(1)  # enough: training waits for data 0.0 % of the time (docs/training.md)
        self._next: tuple[tuple[int, int], Future[_Batches]] | None = None

    def prepare(self, spec: StageSpec) -> None:
        """Freeze what the stage does not train, and make its optimiser; existing moments are kept."""
        self.model.eval().requires_grad_(False)
        freeze = self.config.run.freeze
        for module in trained_modules(spec.objective, self.model, freeze):
            module.train()
            if self.config.optimiser.compile:
                module.compile(dynamic=False)  # all batches of a stage have one shape
        # a self-test that overfits a few windows has no augmentation, and dropout would keep its loss up
        for module in self.model.modules():
            if isinstance(module, nn.Dropout) and not self.config.data.augment:
                module.eval()
        parameters = [value.requires_grad_(True) for value in parameters_of(spec.objective, self.model, freeze)]
        moments = self.optimiser.state_dict() if self.optimiser is not None else None
        self.optimiser = make_optimiser(parameters, self.config.optimiser, spec.learning_rate)
        if moments is not None:
            self.optimiser.load_state_dict(moments)

    def step(self, spec: StageSpec, place: tuple[int, int]) -> dict[str, Tensor]:
        """Take a step.

        Args:
            spec: the stage, prepared.
            place: index of the stage, and of the step in it.

        Returns:
            Mean terms over the batches of the step, on the device: reading them would wait for a GPU.

        Raises:
            FloatingPointError: if the loss is not finite; the batch is saved.
        """
        assert self.optimiser is not None
        for group in self.optimiser.param_groups:
            group["lr"] = spec.learning_rate * learning_share(place[1], spec.steps, self.config.optimiser)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        seeds, batches = self._take(spec, place)
        for seed, batch in zip(seeds, batches, strict=True):
            torch.manual_seed(seed)
            terms = self._terms(spec.objective, batch.to(self.device))
            if not torch.isfinite(terms["loss"]):
                self._fail(batch, place, terms)
            self.scaler.scale(terms["loss"] / len(batches)).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach() / len(batches)
        self.windows = self.group.size * sum(batch.windows for batch in batches)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.group.average_gradients(parameters)
        self.scaler.unscale_(self.optimiser)  # the norm that is clipped is that of unscaled gradients
        if self.config.optimiser.clip_norm > 0:
            nn.utils.clip_grad_norm_(parameters, self.config.optimiser.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        update_average(self.average, self.model, self.config.optimiser.ema, place[1] + 1)
        return sums

    def _terms(self, stage: Stage[Any], batch: TrainingBatch) -> dict[str, Tensor]:
        precision = _DTYPES.get(self.config.optimiser.precision)
        # random numbers of the augmentation are drawn on the device; autocast wants a type even where it is disabled
        with self.device, torch.autocast(self.device.type, precision or torch.bfloat16, enabled=precision is not None):
            return stage.loss(self.model, batch)

    def _take(self, spec: StageSpec, place: tuple[int, int]) -> _Batches:
        """Batches of this step; those of the next are drawn in the background meanwhile."""
        if self._next is None or self._next[0] != place:
            self._next = (place, self._thread.submit(self._draw, spec.objective, place))
        began = time.perf_counter()
        batches = self._next[1].result()
        self.waited += time.perf_counter() - began
        following = (place[0], place[1] + 1)
        more = following[1] < spec.steps
        self._next = (following, self._thread.submit(self._draw, spec.objective, following)) if more else None
        return batches

    def _draw(self, stage: Stage[Any], place: tuple[int, int]) -> _Batches:
        step = 0 if self._repeat else place[1]
        accumulate = self.config.optimiser.accumulate
        seeds, batches = [], []
        for number in range(step * accumulate, (step + 1) * accumulate):
            rng, seed = self.rng(place[0], number)
            seeds.append(seed + self.group.rank)  # processes augment differently
            batches.append(stage.draw(self.data, rng, self.group))
        return _Batches(seeds, batches)

    def rng(self, stage: int, number: int) -> tuple[np.random.Generator, int]:
        """Random generator of a stage's batch, and the seed of the draws made while its loss is computed."""
        # by place, not by a running state: a resumed run draws the same batches, whatever happened before
        rng = np.random.default_rng([self.config.run.seed, stage, number])
        return rng, int(rng.integers(2**62))

    def _fail(self, batch: TrainingBatch, place: tuple[int, int], terms: dict[str, Tensor]) -> None:
        """Save the batch whose loss is not finite, and stop."""
        path = Path(self.config.run.out) / f"bad-batch-{place[0]}-{place[1]}-{self.group.rank}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)  # check-training has no folder of its own
        save_file({name: value.cpu().contiguous() for name, value in batch.tensors().items()}, path)
        shown = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        raise FloatingPointError(
            f"step {place[1]} of stage {place[0]}: expected a finite loss, got {shown}; the batch is in {path}. The "
            "last saved state is intact: --resume with a smaller recipe.learning_rate, or with optimiser.precision=fp32"
        )

    def close(self) -> None:
        """Stop the thread that draws batches."""
        self._thread.shutdown(cancel_futures=True)


def check_compiler(device: torch.device) -> None:
    """Compile a small function, so that a missing compiler is an error before the run begins.

    Args:
        device: to compile for.

    Raises:
        ValueError: without a working compiler, or before PyTorch 2.2.
    """
    if not hasattr(nn.Module, "compile"):
        raise ValueError(f"optimiser.compile: expected PyTorch 2.2 or newer, got {torch.__version__}")
    torch.compiler.reset()  # several runs in one process would exhaust the recompilation limit
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:
        wanted = "a C++ compiler such as g++" if device.type == "cpu" else "Triton and a C compiler"
        [reason, *_] = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"optimiser.compile: expected {wanted} that works, got: {reason}; or set optimiser.compile=false"
        ) from error


def make_optimiser(parameters: Sequence[Tensor], config: OptimiserConfig, rate: float) -> torch.optim.Optimizer:
    """Build the optimiser of a stage.

    ``adam`` adds the decay to the gradient of all parameters: the paper's L2 term, as PyTorch's Adam implements it.
    ``adamw`` decays weights with more than one axis only.
    """
    betas = (config.betas[0], config.betas[1])
    if config.kind == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=betas, weight_decay=config.weight_decay)
    return adamw(parameters, rate, config.weight_decay, betas)


def learning_share(step: int, steps: int, config: OptimiserConfig) -> float:
    """Share of the peak learning rate at a step: warm-up, then a cosine or a constant."""
    # Adam's second moments are unreliable in the first steps; short stages have no hundred to spare
    warm_up = min(100, steps // 10 + 1) if config.warm_up is None else config.warm_up
    if config.schedule == "constant":
        return linear_warm_up(step, warm_up)
    return warm_up_cosine(step, steps, warm_up)
