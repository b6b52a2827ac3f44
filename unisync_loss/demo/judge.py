"""Scores of the demonstration's held-out frames by an expert, and means with intervals.

Axes: T frames, W windows of 5 frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.demo.clip import Material
from unisync_loss.demo.results import Measure
from unisync_loss.evaluation.bootstrap import block_mean_ci
from unisync_loss.functional import offset_matrix, sync_probability
from unisync_loss.models.expert import UniSyncExpert
from unisync_loss.utils.tensors import Array

MAX_OFFSET = 10  # frames searched for the offset
_BLOCK = 10  # windows resampled together: neighbours are correlated


class Judge:
    """An expert with the audio embeddings of a whole clip."""

    @torch.no_grad()
    def __init__(self, expert: UniSyncExpert, material: Material) -> None:
        """Encode the audio."""
        self.expert, self.held = expert, material.held
        audio = material.audio_input.T if material.audio == "mel" else material.audio_input
        self.audio = expert.encode_audio(audio[None], len(material.frames))[0]

    @torch.no_grad()
    def probability(self, video: Tensor, late: int = 0) -> Tensor:
        """Probability of each held-out window.

        Args:
            video: (T, 3, 96, 96), the held-out frames.
            late: frames by which the audio is late.

        Returns:
            (W,), without the windows that have no audio at that offset.
        """
        visual = self.expert.encode_visual(video[None])[0]
        audio = torch.arange(len(visual)) + self.held.start - late
        valid = (audio >= 0) & (audio < len(self.audio))
        return sync_probability(self.audio[audio[valid]], visual[valid])

    @torch.no_grad()
    def offset(self, video: Tensor, first: int) -> int:
        """Offset in frames, positive = audio is late, of consecutive frames that start at the clip's ``first``."""
        visual = self.expert.encode_visual(video[None])
        audio = self.audio[None, first : first + visual.shape[1]]
        most = min(MAX_OFFSET, visual.shape[1] // 2)
        return int(offset_matrix(audio, visual, most)[0].nanmean(dim=0).argmax()) - most


def mean_over_time(values: Array, seed: int) -> Measure:
    """Mean of the values (W,) of consecutive windows, with its 95 % interval."""
    low, high = block_mean_ci(values, _BLOCK, seed=seed)
    return Measure(float(values.mean()), low, high, len(values))
