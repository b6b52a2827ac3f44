"""Values of any input: NaN and infinity, the range of a video, weights."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.inputs.calls import Finding

#: excess of a video over its range, as a share of it, that gives a warning, and an error
_SLIGHT, _GROSS = 0.01, 0.05
_CLAMPED = 0.5  # the error where values are clamped: decoded latents overshoot
_UNUSED = 0.45  # lowest value of a video that uses no more than the upper half of its range


def one_or_nan(*inputs: Tensor) -> Tensor:
    """A factor that makes the loss of a clip with NaN or infinity NaN, without waiting for a device.

    A network may hide a bad value: a mouth crop leaves out most of a frame, ReLU makes minus infinity 0.

    Args:
        inputs: (B, …) in floating point.

    Returns:
        (B, 1) in float32: 1, or NaN where a value of that clip is not finite.
    """
    factor = torch.ones(len(inputs[0]), 1, device=inputs[0].device)
    for value in inputs:
        wide = torch.promote_types(value.dtype, torch.float32)  # a sum in half precision overflows
        total = value.detach().sum(tuple(range(1, value.ndim)), dtype=wide)
        factor = factor + (0 * total[:, None]).float()
    return factor


def check_finite(name: str, value: Tensor) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: with their number and the clip of the first.
    """
    bad = ~value.detach().isfinite().reshape(len(value), -1)
    if bad.any():
        clip = int(bad.any(1).nonzero()[0])
        raise ValueError(
            f"{name}: expected finite values, got NaN or infinity in {int(bad.sum())} of {bad.numel()}, "
            f"first in clip {clip} of the batch"
        )


def check_video(
    video: Tensor, visual: str, bounds: tuple[float, float] | None, *, clamped: bool = False
) -> list[Finding]:
    """Check that the values of a video are finite and in their range.

    Args:
        video: (B, T, …).
        visual: name of the representation, for messages.
        bounds: lowest and highest value of a video in floating point; None where there are none.
        clamped: whether values beyond the bounds are clamped.

    Returns:
        Findings for a slight excess, and for clamped values that use half of their range.

    Raises:
        ValueError: for NaN, infinity, or values outside the bounds by more than 0.05 of the range, 0.5 where clamped.
    """
    if not video.is_floating_point():
        return []
    check_finite("video", video)
    if bounds is None:
        return []
    least, most = bounds
    span = most - least
    slight, gross = (_CLAMPED * span,) * 2 if clamped else (_SLIGHT * span, _GROSS * span)
    low, high = extremes(video)
    text = f"video: expected {visual} in [{least:g}, {most:g}], got values in [{low:.3g}, {high:.3g}]"
    if not (least - gross <= low and high <= most + gross):
        raise ValueError(text)
    doubtful = low < least - slight or high > most + slight or (clamped and low > least + _UNUSED * span)
    return [Finding("video range", text)] if doubtful else []


def extremes(values: Tensor) -> tuple[float, float]:
    """Lowest and highest value."""
    low, high = values.detach().float().aminmax()  # PyTorch 2.0 finds none in float16 on a CPU
    return low.item(), high.item()


def check_weights(weights: Tensor) -> None:
    """Refuse weights that are negative or not finite.

    Raises:
        ValueError: with the least of them.
    """
    check_finite("weights", weights)
    least = weights.detach().min().item()
    if least < 0:
        raise ValueError(f"weights: expected 0 or more, got {least:.3g}")
