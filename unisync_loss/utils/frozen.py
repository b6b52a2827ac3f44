"""Modules that training never changes: frozen networks and tables of constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def keep_precision(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap the argument of ``nn.Module._apply`` so that a cast to half precision moves a tensor without rounding it."""

    def apply(value: Tensor) -> Tensor:
        moved = fn(value)
        return value.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

    return apply


class FrozenModule(nn.Module, Generic[Network]):
    """Base class of modules that hold a network frozen for good.

    The network is no submodule, so ``train()``, ``requires_grad_()``, ``zero_grad()``, ``parameters()``,
    ``state_dict()`` and DDP of this module and of any parent pass it by. ``.to()``, ``.cuda()`` and ``.double()`` reach
    it; ``.half()`` and ``.bfloat16()`` leave its weights in float32. A deepcopy copies it.

    Args:
        network: put into eval mode and without gradients, in place.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._held = (network.eval().requires_grad_(False),)  # nn.Module registers modules, not tuples of them
        self.train(False)

    @property
    def network(self) -> Network:
        """The frozen network."""
        return self._held[0]

    def train(self, mode: bool = True) -> FrozenModule[Network]:
        """Stay in eval mode."""
        return super().train(False)

    def freeze(self) -> None:
        """Freeze the network again if another module that holds it called ``train()`` or ``requires_grad_()``."""
        # both act on a whole module, so one flag of each is enough: a walk over all modules at every call costs more
        first = next(self.network.parameters(), None)
        if self.network.training or (first is not None and first.requires_grad):
            self.network.eval().requires_grad_(False)

    def _replicate_for_data_parallel(self) -> FrozenModule[Network]:
        raise ValueError(
            f"{type(self).__name__}: expected no nn.DataParallel, whose copies would share a network on one device: "
            "call it outside, on the gathered output, or use DistributedDataParallel"
        )

    # PyTorch 2.0 has no `recurse`
    def _apply(self, fn: Callable[[Tensor], Tensor], *recurse: bool) -> FrozenModule[Network]:
        super()._apply(fn, *recurse)  # type: ignore[no-untyped-call]
        self.network._apply(keep_precision(fn), *recurse)  # type: ignore[no-untyped-call]
        return self


class ConstantTables(nn.Module):
    """Tables that a computation needs on its device: they move with their parent, but are not saved or rounded.

    Args:
        tables: by the name of the attribute that holds each.
    """

    def __init__(self, **tables: Tensor) -> None:
        super().__init__()
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], *recurse: bool) -> ConstantTables:
        super()._apply(keep_precision(fn), *recurse)  # type: ignore[no-untyped-call]
        return self
