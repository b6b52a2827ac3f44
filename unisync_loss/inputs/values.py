"""Values of any input: NaN and infinity, the range of a video, weights."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.inputs.calls import Finding

_SLIGHT, _GROSS = 0.01, 0.05  # excess of a video over its range that gives a warning, and an error


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


def check_video(video: Tensor, visual: str, bounds: tuple[float, float] | None) -> list[Finding]:
    """Check that the values of a video are finite and in their range.

    Args:
        video: (B, T, …).
        visual: name of the representation, for messages.
        bounds: lowest and highest value of a video in floating point; None where there are none.

    Returns:
        A finding for a slight excess.

    Raises:
        ValueError: for NaN, infinity, or values further than 0.05 outside the bounds.
    """
    if not video.is_floating_point():
        return []
    check_finite("video", video)
    if bounds is None:
        return []
    least, most = bounds
    low, high = (bound.item() for bound in video.detach().aminmax())
    text = f"video: expected {visual} in [{least:g}, {most:g}], got values in [{low:.3g}, {high:.3g}]"
    if not (least - _GROSS <= low and high <= most + _GROSS):
        raise ValueError(text)
    return [Finding("video range", text)] if low < least - _SLIGHT or high > most + _SLIGHT else []


def check_weights(weights: Tensor) -> None:
    """Refuse weights that are negative or not finite.

    Raises:
        ValueError: with the least of them.
    """
    check_finite("weights", weights)
    least = weights.detach().min().item()
    if least < 0:
        raise ValueError(f"weights: expected 0 or more, got {least:.3g}")
