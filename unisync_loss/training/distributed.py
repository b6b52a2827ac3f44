"""Several processes as one, under torchrun: a joint batch, gathered embeddings, joint batch norms, averaged gradients.

Gradients: every process computes the loss of the whole joint batch (or the mean over its own pairs); what comes back
through a gather or a joint sum is summed over processes, and the mean over processes is taken at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather, all_reduce

from unisync_loss.utils.tensors import at_least_float32

Rows = TypeVar("Rows", NDArray[np.int64], NDArray[np.float64], Tensor)


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank: number of this process.
        size: processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str | None) -> tuple[World, torch.device]:
        """Join the processes that torchrun started; alone without it.

        Args:
            device: ``"cpu"`` or ``"cuda"``; None is a GPU where there is one, for each process its own.

        Raises:
            ValueError: for another device, or no GPU where one is asked for.
        """
        gpus = torch.cuda.device_count()
        if device not in (None, "cpu", "cuda") or (device == "cuda" and not gpus):
            raise ValueError(f"device: expected cpu, or cuda where there is a GPU, got {device!r} and {gpus} GPUs")
        kind = device or ("cuda" if gpus else "cpu")
        place = torch.device("cpu")
        if kind == "cuda":
            place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % gpus)
            torch.cuda.set_device(place)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(), place
        if not dist.is_initialized():
            dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size()), place

    def leave(self) -> None:
        """Part from the other processes."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def part(self, rows: Rows) -> Rows:
        """This process's rows of the joint batch.

        Raises:
            ValueError: when the batch cannot be divided evenly.
        """
        if len(rows) % self.size:
            raise ValueError(f"expected a batch that {self.size} processes can share, got {len(rows)}")
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    def gather(self, value: Tensor) -> Tensor:
        """Rows of all processes (N, …) → (N * size, …), with gradients."""
        return value if self.size == 1 else torch.cat(all_gather(value.contiguous()))

    def gather_labels(self, label: Tensor) -> Tensor:
        """The same for whole numbers."""
        if self.size == 1:
            return label
        parts = [torch.empty_like(label) for _ in range(self.size)]
        dist.all_gather(parts, label.contiguous())
        return torch.cat(parts)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over processes."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        joint = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joint)
        for gradient, mean in zip(gradients, (joint / self.size).split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is true in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


class _JointNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose mean and variance in training are those of all processes, also on a CPU."""

    joint_sum: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = at_least_float32(x)
        sums = torch.cat([wide.sum(axes), wide.new_full((1,), wide[:, 0].numel())])
        joint = self.joint_sum(sums)
        count, mean = joint[-1], joint[:-1] / joint[-1]
        centred = wide - mean.view(shape)
        variance = self.joint_sum(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        pass


def join_norms(module: nn.Module) -> None:
    """Make every batch norm one over all processes; the names of its weights stay."""
    # compiled, it would lose its gradient without a word
    joint_sum = torch.compiler.disable(all_reduce)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.__class__ = _JointNorm  # type: ignore[assignment]
            part.joint_sum = joint_sum
