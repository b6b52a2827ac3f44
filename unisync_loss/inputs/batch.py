"""Shapes, batch sizes and devices of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.utils.tensors import describe


def check_batch(device: torch.device, **inputs: Tensor) -> None:
    """Check that inputs are batches of one size on one device.

    Args:
        device: of the loss.
        inputs: (B, …) by name.

    Raises:
        ValueError: for anything else than tensors of at least two axes, an empty batch, two batch sizes, or another
            device.
    """
    for name, value in inputs.items():
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] == 0:
            raise ValueError(f"{name}: expected a batch (B, …), got {describe(value)}")
    if len({len(value) for value in inputs.values()}) > 1:
        sizes = " and ".join(f"{len(value)} ({name})" for name, value in inputs.items())
        raise ValueError(f"expected one audio clip per video, got batch sizes {sizes}")
    if any(value.device != device for value in inputs.values()):
        got = " and ".join(str(value.device) for value in inputs.values())
        raise ValueError(
            f"expected {' and '.join(inputs)} on the loss's device {device}, got {got}: "
            "move them, or the loss with .to()"
        )
