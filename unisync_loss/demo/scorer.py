"""Scores of held-out frames by the expert."""

from __future__ import annotations

import torch
from torch import Tensor

from unisync_loss.demo.clip import DemoClip
from unisync_loss.functional import offset_matrix, sync_probability
from unisync_loss.models.expert import UniSyncExpert

MAX_OFFSET = 10  # frames on either side searched for the offset


class ExpertScorer:
    """An expert and the audio embeddings of a whole clip.

    Args:
        expert: on RGB, in eval mode.
        clip: of the demonstration.
    """

    @torch.no_grad()
    def __init__(self, expert: UniSyncExpert, clip: DemoClip) -> None:
        self.expert, self.held = expert, clip.held
        audio = clip.audio_input.T if clip.audio == "mel" else clip.audio_input
        self.audio = expert.encode_audio(audio[None], len(clip.frames))[0]

    @torch.no_grad()
    def probability(self, video: Tensor, late: int = 0) -> Tensor:
        """Probability of each held-out window.

        Args:
            video: (T, 3, 96, 96), the held-out frames.
            late: frames by which the audio is delayed.

        Returns:
            (W,), without the windows that have no audio at that offset.
        """
        visual = self.expert.encode_visual(video[None])[0]
        audio = torch.arange(len(visual)) + self.held.start - late
        valid = (audio >= 0) & (audio < len(self.audio))
        return sync_probability(self.audio[audio[valid]], visual[valid])

    @torch.no_grad()
    def offset(self, video: Tensor, first: int) -> int:
        """Estimate the offset of frames (T, 3, 96, 96) from the clip's frame ``first`` on; positive = audio late."""
        visual = self.expert.encode_visual(video[None])
        audio = self.audio[None, first : first + visual.shape[1]]
        most = min(MAX_OFFSET, visual.shape[1] // 2)
        return int(offset_matrix(audio, visual, most)[0].nanmean(dim=0).argmax()) - most
