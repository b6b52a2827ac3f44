"""Precisions that a CPU can compute in."""

import pytest
import torch


def skip_without_convolution_in(dtype: torch.dtype) -> None:
    """Skip a test on PyTorch 2.0, which has no convolution in float16 for CPUs."""
    try:
        torch.nn.functional.conv1d(torch.ones(1, 1, 3, dtype=dtype), torch.ones(1, 1, 1, dtype=dtype))
    except RuntimeError as error:
        pytest.skip(str(error))
