"""Shapes, batch sizes and devices of a batch, and the type of a network that is passed."""

from __future__ import annotations

import os

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
    check_tensors(device, **inputs)


def check_tensors(device: torch.device, **inputs: Tensor | None) -> None:
    """Check that tensors are dense, real and on one device; what is no tensor is left to the checks of shapes.

    Args:
        device: of the video.
        inputs: of any shape, by name.

    Raises:
        ValueError: for another device, a sparse layout, or complex numbers.
    """
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            continue
        if value.device != device:
            raise ValueError(f"{name}: expected it on {device}, like video, got {value.device}")
        if value.layout != torch.strided or value.is_complex():
            raise ValueError(f"{name}: expected a dense tensor of real numbers, got {value.layout} {value.dtype}")


def check_type(argument: str, value: object, expected: type, loader: str) -> None:
    """Check the type of a network that a loss or metric is built on.

    Args:
        argument: its name.
        value: what was passed.
        expected: its type.
        loader: function that loads one by its name or path, for messages.

    Raises:
        ValueError: for another type; a name or path is answered with the loader.
    """
    if not isinstance(value, expected):
        got = f"{value!r}: use {loader}" if isinstance(value, str | os.PathLike) else describe(value)
        raise ValueError(f"{argument}: expected a {expected.__name__}, got {got}")
