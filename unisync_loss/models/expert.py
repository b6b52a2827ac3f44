"""The expert: sync probability of face and audio per 0.2 s window."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from unisync_loss.config import FPS, SAMPLES_PER_FRAME, STEP_RATE, WINDOW_FRAMES, UniSyncConfig
from unisync_loss.functional import calibrated_probability, sync_probability
from unisync_loss.models.layers import GradientFrames
from unisync_loss.models.paper import WindowAudioTower, WindowVisualTower
from unisync_loss.models.small import DenseAudioTower, DenseVisualTower
from unisync_loss.representations import audio_input, visual_input
from unisync_loss.utils.tensors import describe, whole_number

#: by which the audio may outlast the video, frames (0.2 s) and share: codecs pad the end, 1.2 is below the rates that
#: are taken for 16 kHz (22.05 kHz, 1.38) and for 80 mel steps a second (100, 1.25)
_LONGEST_EXCESS, _LARGEST_SHARE = 5, 0.2


def longest_audio(frames: int) -> float:
    """Longest audio that fits a video of ``frames`` frames, in frames."""
    return frames + min(_LONGEST_EXCESS, _LARGEST_SHARE * frames)


def build_towers(config: UniSyncConfig, *, is_image: bool) -> tuple[nn.Module, nn.Module]:
    """Build the visual and the audio tower of a config, with random weights.

    Args:
        config: of the expert.
        is_image: whether the visual representation gives images rather than vectors.
    """
    if config.architecture == "small":
        return DenseVisualTower(config, is_image=is_image), DenseAudioTower(config)
    return WindowVisualTower(config, is_image=is_image), WindowAudioTower(config)


class UniSyncExpert(nn.Module):
    """Dual-stream expert of UniSync (arXiv 2503.16357, section III), for any pair of representations.

    Axes: B batch, T video frames at 25 fps, W windows of 5 frames, S samples at 16 kHz, D embedding.

    Args:
        config: representations, architecture and input contract; the weights are random.

    Raises:
        ValueError: for a name in place of a config.

    Example:
        >>> expert = UniSyncExpert(UniSyncConfig()).eval()
        >>> expert(torch.rand(1, 6, 3, 96, 96), torch.randn(1, 6 * 640) / 10).shape
        torch.Size([1, 2])
    """

    def __init__(self, config: UniSyncConfig) -> None:
        super().__init__()
        if not isinstance(config, UniSyncConfig):
            got = f"{config!r}: use unisync_loss.load_expert" if isinstance(config, str) else describe(config)
            raise ValueError(f"config: expected a UniSyncConfig, got {got}")
        self.config = config
        self.visual_input = visual_input(config)
        self.audio_input = audio_input(config)
        self.visual_tower, self.audio_tower = build_towers(config, is_image=self.visual_input.is_image)

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
        frames = self.prepare_visual(video)
        # audio first: a wrong length is found before the larger work on the video
        audio_embedding = self.encode_audio(audio, frames.shape[1], stride=stride)
        return sync_probability(audio_embedding, self.encode_prepared(frames, stride=stride))

    def calibrate(self, probability: Tensor) -> Tensor:
        """Turn the scores of this expert into calibrated probabilities, see :func:`calibrated_probability`.

        Args:
            probability: (...) of :meth:`forward`, in [0, 1].

        Returns:
            (...) in (0, 1): of windows with that score, where half of all are in sync, the share that is.

        Raises:
            ValueError: for an expert without a calibration.
        """
        if not self.config.temperature:
            raise ValueError("expected a calibrated expert (temperature above 0 in its config), got one without")
        return calibrated_probability(probability, self.config.temperature, self.config.midpoint)

    def prepare_visual(self, video: Tensor) -> Tensor:
        """Check the video and convert it to the form that the visual tower takes, differentiably.

        Args:
            video: see :meth:`forward`.

        Returns:
            (B, T, C, H, W) images or (B, T, E) vectors, in the dtype of the weights.

        Raises:
            ValueError: for a wrong shape or dtype.
        """
        frames: Tensor = self.visual_input(self._own_dtype(video))
        return frames

    def encode_visual(self, video: Tensor, *, stride: int = 1, mask: Tensor | None = None) -> Tensor:
        """Embed every window of the video.

        Args:
            video: see :meth:`forward`. Small experts on landmarks, coefficients or parsing maps subtract the mean of
                the T frames, so more frames of a person at once give better embeddings.
            stride: frames from one window to the next.
            mask: (B, T) booleans, False for frames that pad the batch and are excluded from that mean.

        Returns:
            (B, W, D) before ReLU.

        Raises:
            ValueError: for a wrong shape or dtype, or fewer than 5 frames.
        """
        return self.encode_prepared(self.prepare_visual(video), stride=stride, mask=mask)

    def encode_prepared(
        self,
        frames: Tensor,
        *,
        stride: int = 1,
        mask: Tensor | None = None,
        gradient: GradientFrames | None = None,
    ) -> Tensor:
        """Embed every window of a video that :meth:`prepare_visual` converted.

        Args:
            frames: (B, T, C, H, W) or (B, T, E).
            stride: see :meth:`encode_visual`.
            mask: see :meth:`encode_visual`.
            gradient: the frames that a gradient reaches; None for all.

        Returns:
            (B, W, D) before ReLU.

        Raises:
            ValueError: for fewer than 5 frames.
        """
        stride = whole_number("stride", stride)
        count_windows(frames.shape[1], stride)
        embedding: Tensor = self.visual_tower(frames, stride, mask, gradient)
        return embedding

    def encode_chosen(
        self,
        frames: Tensor,
        chosen: Tensor,
        *,
        stride: int = 1,
        mask: Tensor | None = None,
        gradient: GradientFrames | None = None,
    ) -> Tensor:
        """Embed some windows of a video that :meth:`prepare_visual` converted.

        Where windows do not depend on other frames, these are encoded alone, if that is less than the whole clip.

        Args:
            frames: (B, T, C, H, W) or (B, T, E).
            chosen: (K,) places among the W windows of :meth:`encode_prepared`.
            stride: see :meth:`encode_visual`.
            mask: see :meth:`encode_visual`.
            gradient: see :meth:`encode_prepared`.

        Returns:
            (B, K, D) before ReLU.
        """
        small, more = self.config.architecture == "small", WINDOW_FRAMES * len(chosen) >= frames.shape[1]
        if gradient is not None or (small and (more or not self.config.has_mouth_aligner)):
            return self.encode_prepared(frames, stride=stride, mask=mask, gradient=gradient)[:, chosen]
        alone = rearrange(frames.unfold(1, WINDOW_FRAMES, stride)[:, chosen], "b k ... t -> (b k) t ...")
        return rearrange(self.encode_prepared(alone), "(b k) 1 d -> b k d", b=len(frames))

    def encode_audio(self, audio: Tensor, frames: int, *, stride: int = 1) -> Tensor:
        """Embed every window of the audio.

        Args:
            audio: (B, S) waveform at 16 kHz, or features: mel (B, 80, L), HuBERT or Whisper (B, L, F).
            frames: number T of video frames that the audio covers.
            stride: frames from one window to the next.

        Returns:
            (B, W, D) before ReLU, for the same windows as :meth:`encode_visual`.

        Raises:
            ValueError: for a wrong shape or dtype, or a length that does not fit the frames.
        """
        return self._encode_features(self.prepare_audio(audio), frames, stride, audio)

    def prepare_audio(self, audio: Tensor) -> Tensor:
        """Check the audio and convert it to the features that the audio tower takes, differentiably.

        Args:
            audio: see :meth:`encode_audio`.

        Returns:
            (B, L, F), in the dtype of the weights.

        Raises:
            ValueError: for a wrong shape or dtype.
        """
        features: Tensor = self.audio_input(self._own_dtype(audio))
        return features

    def encode_prepared_audio(self, features: Tensor, frames: int, *, stride: int = 1) -> Tensor:
        """Embed every window of audio that :meth:`prepare_audio` converted.

        Args:
            features: (B, L, F).
            frames: see :meth:`encode_audio`.
            stride: see :meth:`encode_audio`.

        Returns:
            (B, W, D) before ReLU.

        Raises:
            ValueError: for a length that does not fit the frames.
        """
        return self._encode_features(features, frames, stride, features)

    def _encode_features(self, features: Tensor, frames: int, stride: int, audio: Tensor) -> Tensor:
        """Embed features of ``audio``."""
        frames, stride = whole_number("frames", frames), whole_number("stride", stride)
        last = stride * (count_windows(frames, stride) - 1)
        needed = self.config.first_step(last) + self.config.window_steps
        features = self.audio_input.fit(features, needed)
        self._check_length(audio, features.shape[1], needed, frames)
        embedding: Tensor = self.audio_tower(features, last + 1, stride)
        return embedding

    def _own_dtype(self, value: Tensor) -> Tensor:
        """Cast inputs to the dtype of the weights, before the square of a half-precision number overflows."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value  # labels, or an error of the representation
        return value.to(next(self.parameters()).dtype)

    def _check_length(self, audio: Tensor, steps: int, needed: int, frames: int) -> None:
        given = audio.shape[1] / SAMPLES_PER_FRAME if audio.ndim == 2 else steps * FPS / STEP_RATE[self.config.audio]
        if needed <= steps and given <= longest_audio(frames):
            return
        usual = (
            f"(B, {frames * SAMPLES_PER_FRAME}) samples"
            if audio.ndim == 2
            else f"{self.config.first_step(frames)} steps"
        )
        raise wrong_length(usual, frames, audio)


def wrong_length(usual: str, frames: int, audio: Tensor) -> ValueError:
    """Error for audio that does not span the time of a video of ``frames`` frames; ``usual`` is the shape that does."""
    return ValueError(
        f"audio: expected about {usual} for T = {frames} frames (25 fps, 16 kHz), got {describe(audio)}: "
        "check sample rate, frame rate and that both span the same time"
    )


def count_windows(frames: int, stride: int = 1) -> int:
    """Number of windows of a clip.

    Raises:
        ValueError: for fewer than 5 frames or a stride below 1.
    """
    if frames < WINDOW_FRAMES:
        raise ValueError(f"video: expected at least T = {WINDOW_FRAMES} frames (0.2 s at 25 fps), got T = {frames}")
    if stride < 1:
        raise ValueError(f"stride: expected at least 1 frame, got {stride}")
    return (frames - WINDOW_FRAMES) // stride + 1
