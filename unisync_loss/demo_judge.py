"""The demonstration's judge: an expert's opinion of held-out frames, and means with intervals.

Axes: T frames, W windows of 5 frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisync_loss.config import VisualRepresentation
from unisync_loss.demo_material import Material, heard_whole
from unisync_loss.expert import UniSyncExpert
from unisync_loss.functional import offset_matrix, sync_probability
from unisync_loss.pretrained import list_pretrained, load_expert

MAX_OFFSET = 10  # frames searched for the offset
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Measure:
    """Mean probability over windows with its 95 % interval (block bootstrap over time)."""

    mean: float
    low: float
    high: float
    windows: int


def load_judge(visual: str, model: str | None) -> UniSyncExpert:
    """Load the expert of a demonstration.

    Args:
        visual: the representation wanted.
        model: released name, folder or ``owner/name``; None takes the released ``mel-VISUAL``.

    Raises:
        ValueError: for an unknown representation, where no such expert is released, or one of another representation.
    """
    if visual not in get_args(VisualRepresentation):
        raise ValueError(f"visual: expected {', '.join(get_args(VisualRepresentation))}, got {visual!r}")
    if model is None and f"mel-{visual}" not in list_pretrained():
        raise ValueError(
            f"--visual {visual} needs a mel-{visual} expert, and none is released: give the folder of a trained one "
            f"(--model RUN/best, from unisync train --visual {visual} …)"
        )
    expert = load_expert(model or f"mel-{visual}")
    if expert.config.visual != visual:
        raise ValueError(f"--visual {visual}: expected an expert of it, got {expert.config.name} ({model})")
    return expert


class Judge:
    """The expert's opinion of the held-out frames."""

    @torch.no_grad()
    def __init__(self, expert: UniSyncExpert, material: Material) -> None:
        """Listen to the whole clip once."""
        self.expert, self.held = expert, material.held
        self.audio = expert.encode_audio(heard_whole(material), len(material.frames))[0]

    @torch.no_grad()
    def probability(self, video: Tensor, late: int = 0) -> Tensor:
        """Probability of each held-out window.

        Args:
            video: (T, …) for the held-out frames.
            late: frames by which the audio is late.

        Returns:
            (W,), without the windows that have no audio so late or early.
        """
        visual = self.expert.encode_visual(video[None])[0]
        heard = torch.arange(len(visual)) + self.held.start - late
        there = (heard >= 0) & (heard < len(self.audio))
        return sync_probability(self.audio[heard[there]], visual[there])

    @torch.no_grad()
    def offset(self, video: Tensor, first: int) -> int:
        """Estimate how late the audio is, in frames, from consecutive frames of which the clip's ``first`` is one."""
        visual = self.expert.encode_visual(video[None])
        audio = self.audio[None, first : first + visual.shape[1]]
        most = min(MAX_OFFSET, visual.shape[1] // 2)
        return int(offset_matrix(audio, visual, most)[0].nanmean(dim=0).argmax()) - most


def bootstrap(values: NDArray[np.float64], seed: int, block: int = 10) -> Measure:
    """Mean with a 95 % interval; whole stretches of time are redrawn, as neighbouring windows are alike."""
    count, random = len(values), np.random.default_rng(seed)
    block = max(1, min(block, count // 3))
    starts = random.integers(0, count, (RESAMPLES, math.ceil(count / block), 1))
    picked = ((starts + np.arange(block)) % count).reshape(RESAMPLES, -1)[:, :count]
    low, high = np.quantile(values[picked].mean(axis=1), (0.025, 0.975))
    return Measure(float(values.mean()), float(low), float(high), count)
