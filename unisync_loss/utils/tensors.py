"""Dtypes and shapes of tensors, checks of scalar options, strict matching of weights, arrays of measurements."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
_SHOWN = 6  # problems listed in an error message
_LARGEST = 2**31 - 1  # of a whole number: products with the size of a tensor must fit 64 bits


def at_least_float32(value: Tensor) -> Tensor:
    """Raise half precision to float32 and leave float64 alone."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def describe(value: object) -> str:
    """Shape and dtype of a tensor, or the type of anything else, for error messages."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def read_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an ``.npy`` file; pickled objects, which could run code, are refused.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for anything else.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy reads the header as Python, whose tokens, syntax and sizes have their own
        raise ValueError(f"{path}: expected an array in an .npy file, got none ({error})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: expected an array in an .npy file, got an archive")
    return array


def whole_number(name: str, value: object) -> int:
    """A whole number of any type, also a scalar of a library of arrays.

    Args:
        name: of the argument, for the message.
        value: what was passed.

    Raises:
        ValueError: for anything else, a boolean, or a number of more than 31 bits.
    """
    number = None
    if _is_scalar(value):
        with contextlib.suppress(TypeError, RuntimeError):  # RuntimeError: a tensor on the meta device
            number = operator.index(value)  # type: ignore[arg-type]
    if number is None or abs(number) > _LARGEST:
        raise ValueError(f"{name}: expected a whole number, got {_shown(value)}")
    return number


def real_number(name: str, value: object) -> float:
    """A number of any type, also a scalar of a library of arrays; infinity is one.

    Args:
        name: of the argument, for the message.
        value: what was passed.

    Raises:
        ValueError: for anything else, a boolean or NaN.
    """
    number = math.nan
    if _is_scalar(value) and hasattr(value, "__float__"):  # float() takes texts, too
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            number = float(value)
    if math.isnan(number):
        raise ValueError(f"{name}: expected a number, got {_shown(value)}")
    return number


def check_choice(name: str, value: object, *choices: str) -> None:
    """Check an option that has named values.

    Raises:
        ValueError: for another value, or no text.
    """
    if not isinstance(value, str) or value not in choices:  # an array compares with each text by itself
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"{name}: expected {', '.join(others)} or {last}, got {_shown(value)}")


def flag(name: str, value: object) -> bool:
    """An option that is on or off.

    Args:
        name: of the argument, for the message.
        value: what was passed.

    Raises:
        ValueError: for anything but True and False.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected True or False, got {_shown(value)}")
    return value


def _is_scalar(value: object) -> bool:
    """Whether a value may be one number: no boolean, and no axes."""
    kind = getattr(value, "dtype", type(value))
    return "bool" not in str(kind) and not getattr(value, "ndim", 0)


def _shown(value: object) -> str:
    return describe(value) if getattr(value, "ndim", 0) else repr(value)


def match_weights(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, optional: frozenset[str] = frozenset()
) -> dict[str, Tensor]:
    """Convert tensors to the types of a network if they are exactly its own.

    Args:
        tensors: read from a file.
        expected: ``state_dict()`` of the network; only shapes and types are used, so it may be on the meta device.
        optional: keys of ``expected`` that the file may lack.

    Returns:
        The tensors, floating-point ones in float32.

    Raises:
        ValueError: for a missing or unexpected key, another shape or kind of number, or NaN or infinity; the message
            lists the first six problems.
    """
    problems = [f"missing {key}" for key in expected if key not in tensors and key not in optional]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    matched = {}
    for key in [key for key in expected if key in tensors]:
        got, want = tensors[key], expected[key]
        if got.shape != want.shape:
            problems.append(f"{key}: expected shape {tuple(want.shape)}, got {tuple(got.shape)}")
        elif got.is_floating_point() != want.is_floating_point() or got.is_complex() or got.dtype == torch.bool:
            problems.append(f"{key}: expected {want.dtype}, got {got.dtype}")
        else:
            matched[key] = got.to(torch.float32 if want.is_floating_point() else want.dtype)
            if not torch.isfinite(matched[key]).all():
                problems.append(f"{key}: expected finite values, got NaN or infinity")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError("; ".join(problems[:_SHOWN]) + more)
    return matched
