"""The expert: how probable it is that a face and a voice belong together, for every 0.2 s."""

from __future__ import annotations

from torch import Tensor, nn

from unisync_loss.config import WINDOW_FRAMES, UniSyncConfig
from unisync_loss.functional import sync_probability
from unisync_loss.models.paper import (
    WindowTower,
    paper_audio_stem,
    paper_audio_trunk,
    paper_visual_stem,
    paper_visual_trunk,
)
from unisync_loss.models.small import DenseAudioTower, DenseVisualTower
from unisync_loss.representations import audio_input, visual_input
from unisync_loss.utils.tensors import describe


def build_towers(config: UniSyncConfig) -> tuple[nn.Module, nn.Module]:
    """Build the visual and the audio tower of a config."""
    if config.architecture == "small":
        return DenseVisualTower(config), DenseAudioTower(config)
    pictures = config.visual in ("rgb", "parsing")
    visual = WindowTower(paper_visual_stem(config), paper_visual_trunk(config), WINDOW_FRAMES, pictures=pictures)
    audio = WindowTower(paper_audio_stem(), paper_audio_trunk(config), config.window_steps, pictures=False)
    return visual, audio


_LONGEST_EXCESS = 0.2  # seconds by which the audio may outlast the video before it counts as a mistake


class UniSyncExpert(nn.Module):
    """Dual-stream expert of UniSync (arXiv 2503.16357, section III), for any pair of representations.

    Axes: B batch, T video frames at 25 fps, W windows of 5 frames, S samples at 16 kHz, D embedding.

    Args:
        config: representations, architecture and input contract.

    Example:
        >>> expert = UniSyncExpert(UniSyncConfig()).eval()
        >>> expert(torch.rand(1, 6, 3, 96, 96), torch.randn(1, 6 * 640) / 10).shape
        torch.Size([1, 2])
    """

    def __init__(self, config: UniSyncConfig) -> None:
        """Build the networks with random weights."""
        super().__init__()
        self.config = config
        self.visual_input = visual_input(config)
        self.audio_input = audio_input(config)
        self.visual_tower, self.audio_tower = build_towers(config)

    def forward(self, video: Tensor, audio: Tensor, *, stride: int = 1) -> Tensor:
        """Probability that each window is in sync (eq. 2).

        Args:
            video: as the config's visual representation defines it, for ``"rgb"`` (B, T, 3, H, W) in [0, 1], T ≥ 5.
            audio: (B, S) waveform of the same time span, S = 640·T, or features.
            stride: frames from one window to the next.

        Returns:
            (B, W) in [0, 1], W = (T - 5) // stride + 1.

        Raises:
            ValueError: for a wrong shape, dtype or length.
        """
        # the audio first: a wrong length is found before the larger work on the video
        heard = self.encode_audio(audio, self.visual_input(video).shape[1], stride=stride)
        return sync_probability(heard, self.encode_visual(video, stride=stride))

    def encode_visual(self, video: Tensor, *, stride: int = 1, mask: Tensor | None = None) -> Tensor:
        """Embed every window of the video.

        Args:
            video: see :meth:`forward`. Small experts on anything but colours take each frame less the mean of the T
                frames: the more of a person they are given at once, the better.
            stride: frames from one window to the next.
            mask: (B, T) booleans, False for frames that pad the batch, which are no part of that mean.

        Returns:
            (B, W, D) before ReLU.

        Raises:
            ValueError: for a wrong shape or dtype, or fewer than 5 frames.
        """
        frames = self.visual_input(self._own_dtype(video))
        starts = self.window_starts(frames.shape[1], stride)
        if isinstance(self.visual_tower, DenseVisualTower):
            return self.visual_tower(frames, starts, mask)
        embedding: Tensor = self.visual_tower(frames, starts)
        return embedding

    def encode_audio(self, audio: Tensor, frames: int, *, stride: int = 1) -> Tensor:
        """Embed every window of the audio.

        Args:
            audio: (B, S) waveform at 16 kHz, or features: mel (B, 80, L) or HuBERT (B, L, F).
            frames: number T of video frames that the audio covers.
            stride: frames from one window to the next.

        Returns:
            (B, W, D) before ReLU, window for window as :meth:`encode_visual`.

        Raises:
            ValueError: for a wrong shape or dtype, or a length that does not fit the frames.
        """
        features = self.audio_input(self._own_dtype(audio))
        # floor(3.2 f), Wav2Lip's rule, for mel; 2 f for HuBERT
        starts = [int(start * self.config.steps_per_frame) for start in self.window_starts(frames, stride)]
        needed = starts[-1] + self.config.window_steps
        features = self.audio_input.fit(features, needed)
        self._check_length(audio, features.shape[1], needed, frames)
        embedding: Tensor = self.audio_tower(features, starts)
        return embedding

    def window_starts(self, frames: int, stride: int = 1) -> list[int]:
        """First frame of every window.

        Raises:
            ValueError: for fewer than 5 frames or a stride below 1.
        """
        if frames < WINDOW_FRAMES:
            raise ValueError(f"video: expected at least T = {WINDOW_FRAMES} frames (0.2 s at 25 fps), got T = {frames}")
        if stride < 1:
            raise ValueError(f"stride: expected at least 1 frame, got {stride}")
        return list(range(0, frames - WINDOW_FRAMES + 1, stride))

    def _own_dtype(self, value: Tensor) -> Tensor:
        """Bring inputs to the dtype of the weights, before anything in half precision is squared and overflows."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value  # refused, or taken as labels, by the representation
        return value.to(next(self.parameters()).dtype)

    def _check_length(self, audio: Tensor, steps: int, needed: int, frames: int) -> None:
        per_frame = self.config.steps_per_frame
        most = frames * per_frame + 1 + _LONGEST_EXCESS * float(per_frame) * 25
        if needed <= steps <= most:
            return
        usual = f"(B, {frames * 640}) samples" if audio.ndim == 2 else f"{int(frames * per_frame)} steps"
        raise ValueError(
            f"audio: expected about {usual} for T = {frames} frames (25 fps, 16 kHz), got {describe(audio)}: "
            "check sample rate, frame rate and that both span the same time"
        )
