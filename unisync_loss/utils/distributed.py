"""Data-parallel training under torchrun: sharded batches, gathered embeddings, joint batch norms, averaged gradients.

Every process computes the loss of the whole batch (or the mean over its own pairs). The backward pass of a gather or of
a joint sum adds the gradients of all processes; :meth:`ProcessGroup.average_gradients` then takes their mean.
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
class ProcessGroup:
    """This process and the number of processes that train together.

    Attributes:
        rank: index of this process.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def init(cls, device: str | None) -> tuple[ProcessGroup, torch.device]:
        """Initialise the process group that torchrun started; without torchrun, a group of one.

        Args:
            device: ``"cpu"`` or ``"cuda"``; None uses a GPU if there is one. Each process gets its own GPU.

        Returns:
            The group, and the device of this process.

        Raises:
            ValueError: for another device, or for ``"cuda"`` without a GPU.
        """
        gpus = torch.cuda.device_count()
        if device not in (None, "cpu", "cuda") or (device == "cuda" and not gpus):
            raise ValueError(f"device: expected cpu, or cuda if there is a GPU, got {device!r} and {gpus} GPUs")
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

    def destroy(self) -> None:
        """Destroy the process group."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def shard(self, rows: Rows) -> Rows:
        """Rows of the whole batch that belong to this process.

        Raises:
            ValueError: if the batch cannot be divided evenly.
        """
        if len(rows) % self.size:
            raise ValueError(f"expected a batch size divisible by {self.size} processes, got {len(rows)}")
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate the rows of all processes, (N, …) → (N * size, …), with gradients."""
        return value if self.size == 1 else torch.cat(all_gather(value.contiguous()))

    def gather_labels(self, label: Tensor) -> Tensor:
        """Concatenate integer rows of all processes, without gradients."""
        if self.size == 1:
            return label
        parts = [torch.empty_like(label) for _ in range(self.size)]
        dist.all_gather(parts, label.contiguous())
        return torch.cat(parts)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over all processes."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # one message for all: each costs a round trip
        joint = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joint)
        for gradient, mean in zip(gradients, (joint / self.size).split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is true in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def wait(self) -> None:
        """Block until all processes have arrived."""
        if self.size > 1:
            dist.barrier()


ALONE = ProcessGroup()


class _JointBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batch of all processes on CPUs, which :class:`torch.nn.SyncBatchNorm` does not support."""

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
        joint = _joint_sum(sums)
        count, mean = joint[-1], joint[:-1] / joint[-1]
        # two sums, because the mean of squares minus the squared mean cancels in float32
        centred = wide - mean.view(shape)
        variance = _joint_sum(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)  # unbiased, as in BatchNorm
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        pass


_joint_sum: Callable[[Tensor], Tensor] = all_reduce
if hasattr(torch, "compiler"):  # PyTorch 2.0 has none; training compiles from 2.2 on
    # captured by torch.compile, all_reduce would lose its gradient without an error
    _joint_sum = torch.compiler.disable(all_reduce)


def convert_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every batch norm by one over the batch of all processes.

    Args:
        module: changed in place; names, weights and statistics stay.

    Returns:
        The module: :class:`torch.nn.SyncBatchNorm` on GPUs, an equivalent on CPUs.
    """
    if next(module.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return _convert(module)


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        joint = _JointBatchNorm(module.num_features, module.eps, module.momentum)
        # the same tensors: an optimiser or a state dict made before stays valid
        joint.__dict__.update({name: module.__dict__[name] for name in ("training", "_parameters", "_buffers")})
        return joint
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    return module
