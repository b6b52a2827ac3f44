"""Dtypes and shapes of tensors; the array type of measurements."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """Raise half precision to float32 and leave float64 alone."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def describe(value: object) -> str:
    """Shape and dtype of a tensor, or the type of anything else, for error messages."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


Array = NDArray[np.float64]
