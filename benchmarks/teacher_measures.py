"""Measures of one expert on one segment, and of references that no expert is needed for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from teacher_attacks import gradient_of, pool, projected_descent, signed_step
from teacher_experts import Teacher
from teacher_segments import BLOCK, LATE, NOISE, Segment, add_noise, measure_opening
from torch import Tensor
from torch.nn import functional as F

RADII = (2, 4, 8)  # of 255
LARGEST = RADII[-1]
HIGH = 0.125  # cycles per pixel, a quarter of the highest frequency
REFERENCES = ("random noise", "wanted change", "wanted, within 8")
Row = dict[str, Any]


def measure_segment(teacher: Teacher, segment: Segment) -> Row:
    """All measures of an expert on a segment.

    Returns:
        ``in_sync`` and ``late``: probabilities of the windows by kind of perturbation; of the gradient of the loss on
        late audio and of the perturbation for it, what :func:`describe_gradient` and :func:`describe_lips` return.
    """
    windows = teacher.encode_audio(segment.waveform, segment.frames)
    count = len(segment.given) - 4
    right, late = (windows[:, first : first + count] for first in (segment.start, segment.start - LATE))
    perturbed = attack(teacher, segment.given, right, late, segment.seed)
    with torch.no_grad():
        scores = {name: teacher.probability(video, torch.cat([right, late])) for name, video in perturbed.items()}
    gradient = gradient_of(lambda video: teacher.loss(video, late), segment.given[None])[0]
    return {
        "in_sync": {name: _rounded(values[0]) for name, values in scores.items()},
        "late": {name: _rounded(values[1]) for name, values in scores.items()},
        **describe_gradient(-gradient, segment),
        **describe_lips(perturbed[f"PGD {LARGEST}"][1], segment),
    }


def attack(teacher: Teacher, given: Tensor, right: Tensor, late: Tensor, seed: int) -> dict[str, Tensor]:
    """Perturb frames so that p falls on the right audio and rises on late audio.

    Args:
        teacher: attacked.
        given: (T, 3, H, W).
        right: (1, T - 4, …) audio of the frames.
        late: (1, T - 4, …) late audio.
        seed: of the random starts.

    Returns:
        (2, T, 3, H, W) frames by kind of perturbation, first those for the right audio.
    """
    video = given.expand(2, *given.shape)
    audio = torch.cat([right, late])
    generator = torch.Generator().manual_seed(seed)

    def objective(frames: Tensor) -> Tensor:
        probability = teacher.probability(frames, audio)
        return probability[1].sum() - probability[0].sum()

    gradient = gradient_of(objective, video)
    perturbed = {"clean": video}
    perturbed |= {f"step {radius}": signed_step(video, gradient, radius / 255) for radius in RADII}
    for radius in RADII:
        perturbed[f"PGD {radius}"] = projected_descent(objective, video, radius / 255, generator)
    perturbed[f"blocks {LARGEST}"] = projected_descent(objective, video, LARGEST / 255, generator, block=BLOCK)
    return perturbed


def reference_rows(segment: Segment) -> dict[str, Row]:
    """The measures without an expert, by :data:`REFERENCES`: for noise, and for the change to the wanted frames."""
    noise, change = add_noise(segment.given, segment.seed + 1), segment.wanted - segment.given
    moved = (noise, segment.wanted, segment.given + change.clamp(-NOISE, NOISE))
    return {
        name: {**describe_gradient(video - segment.given, segment), **describe_lips(video, segment)}
        for name, video in zip(REFERENCES, moved, strict=True)
    }


def describe_gradient(direction: Tensor, segment: Segment) -> Row:
    """Agreement and content of a direction in which a generator's frames would move.

    Args:
        direction: (T, 3, H, W), such as minus the gradient of a loss.
        segment: with the change wanted.

    Returns:
        ``cosine`` and ``cosine_8`` with the wanted change in the mouth region, by pixel and by block; ``chroma`` and
        ``high_frequency``, see :func:`chroma_share` and :func:`high_share`.
    """
    rows, columns = segment.mouth
    moved, wanted = (video[None, :, :, rows, columns] for video in (direction, segment.wanted - segment.given))
    return {
        "cosine": cosine(moved, wanted),
        "cosine_8": cosine(pool(moved, BLOCK), pool(wanted, BLOCK)),
        "chroma": chroma_share(direction),
        "high_frequency": high_share(direction),
    }


def describe_lips(moved: Tensor, segment: Segment) -> Row:
    """Change of the lip opening in perturbed frames (T, 3, H, W), and the change wanted; each (T,), None: no face."""
    change = measure_opening(moved) - segment.opening
    return {"opening_change": _numbers(change), "opening_wanted": _numbers(segment.opening_wanted)}


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of two arrays, 0 if one is 0."""
    return F.cosine_similarity(one.flatten(), other.flatten(), dim=0, eps=1e-20).item()


def chroma_share(gradient: Tensor) -> float:
    """Energy of the deviation from the mean over the channels, as a share of the whole, (T, 3, H, W) → [0, 1]."""
    return _share(gradient - gradient.mean(1, keepdim=True), gradient)


def high_share(gradient: Tensor) -> float:
    """Energy above a quarter of the highest frequency as a share of the whole, (T, 3, H, W) → [0, 1]."""
    vertical, horizontal = (torch.fft.fftfreq(size) for size in gradient.shape[-2:])
    frequency = torch.hypot(rearrange(vertical, "h -> h 1"), horizontal)
    spectrum = torch.fft.fft2(gradient.double())
    return _share(spectrum * (frequency > HIGH), spectrum)


def _share(part: Tensor, whole: Tensor) -> float:
    total = whole.abs().double().square().sum()  # double: a gradient's squares may be too small for float32
    return (part.abs().double().square().sum() / total).item() if total else 0.0


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _numbers(values: NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]
