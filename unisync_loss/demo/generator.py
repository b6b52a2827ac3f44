"""Generator of the demonstration and its training: inputs and outputs of Wav2Lip, a fiftieth of its parameters.

Axes: B windows of 5 frames, T frames, N = 5 B frames of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.demo.clip import SIZE, DemoClip, audio_windows, mel_around
from unisync_loss.loss import UniSyncLoss
from unisync_loss.utils.schedule import warm_up_cosine

MOUTH_ROWS, MOUTH_COLUMNS = slice(54, 92), slice(28, 68)  # of the mouth, in tight and loose crops
BATCH = 8  # windows
LEARNING_RATE = 2e-3
SYNC_WEIGHT = 0.03  # that of Wav2Lip; the L1 is about 0.03 and the sync loss about 1


class LipGenerator(nn.Module):
    """U-Net that generates the lower half of a face from audio; untrained, it returns that of the reference.

    Shape:
        mel (N, 1, 80, 16) and faces (N, 6, 96, 96), a target without its lower half and a reference, → RGB
        (N, 3, 96, 96) in [0, 1] with the upper half of the target.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third, last = 16, 32, 64, 128
        self.encoder = nn.ModuleList(
            [_block(24, first), _block(first, second, 2), _block(second, third, 2), _block(third, last, 2)]
        )
        self.audio = nn.Sequential(
            _block(1, 16, (2, 1)), _block(16, 32, 2), _block(32, 64, 2), _block(64, 64, 2),
            nn.Flatten(), nn.Linear(64 * 5 * 2, last), nn.ReLU(),
        )  # fmt: skip
        self.fuse = _block(2 * last, last)
        self.decoder = nn.ModuleList(
            [_block(last + third, third), _block(third + second, second), _block(second + first, first)]
        )
        self.modulation = nn.ModuleList([nn.Linear(last, 2 * width) for width in (third, second, first)])
        self.out = nn.Conv2d(first, 12, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Generate frames; shapes as in the class."""
        skips = [F.pixel_unshuffle(faces, 2)]
        for layer in self.encoder:
            skips.append(layer(skips[-1]))
        audio = self.audio(mel)
        x = self.fuse(torch.cat([skips.pop(), repeat(audio, "n c -> n c h w", h=6, w=6)], dim=1))
        x = x[:, :, 3:]  # only the lower half is generated
        for layer, modulation in zip(self.decoder, self.modulation, strict=True):
            skip = skips.pop()
            x = layer(torch.cat([F.interpolate(x, scale_factor=2.0), skip[:, :, skip.shape[2] // 2 :]], dim=1))
            scale, shift = rearrange(modulation(audio), "n (k c) -> k n c 1 1", k=2)
            x = x * (1 + scale) + shift
        reference = lower_half(faces[:, 3:]).clamp(0.01, 0.99).logit()
        lower = torch.sigmoid(reference + F.pixel_shuffle(self.out(x), 2))
        return torch.cat([faces[:, :3, : SIZE // 2], lower], dim=2)


def _block(before: int, after: int, stride: int | tuple[int, int] = 1) -> nn.Sequential:
    # group norm has no running statistics, so held-out frames are generated as training frames are
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU())


def lower_half(frames: Tensor) -> Tensor:
    """Lower half of frames (N, C, 96, 96), the part that is generated."""
    return frames[:, :, SIZE // 2 :]


def faces_of(clip: DemoClip, frames: Tensor) -> Tensor:
    """Stack targets (N, 3, 96, 96) without their lower half and references to (N, 6, 96, 96); ``frames`` is (N,)."""
    targets = clip.frames[frames]  # a copy
    lower_half(targets).zero_()
    return torch.cat([targets, clip.references[frames]], dim=1)


@torch.no_grad()
def generate(generator: LipGenerator, clip: DemoClip, *, late: int = 0) -> Tensor:
    """Generate the held-out frames (T, 3, 96, 96) from audio delayed by ``late`` frames."""
    frames = torch.arange(clip.held.start, clip.held.stop).split(50)
    return torch.cat([generator(mel_around(clip.mel, part - late), faces_of(clip, part)) for part in frames])


class WindowBatch(NamedTuple):
    """Windows to train on.

    Attributes:
        frames: (B, 5) consecutive frame numbers.
        gain: (B,) added to the mel.
        delay: (B,) delay of the audio in frames.
    """

    frames: Tensor
    gain: Tensor
    delay: Tensor


def draw_batch(train: range, rng: torch.Generator) -> WindowBatch:
    """Draw windows at random, with gains of up to 4 dB and delays of up to half a frame against overfitting."""
    starts = torch.randint(len(train) - WINDOW_FRAMES + 1, (BATCH,), generator=rng) + train.start
    gain, delay = torch.rand(2, BATCH, generator=rng) - 0.5
    return WindowBatch(starts[:, None] + torch.arange(WINDOW_FRAMES), 0.64 * gain, delay)


def train_generator(
    clip: DemoClip, steps: int, seed: int, sync_loss: UniSyncLoss | None, on_step: Callable[[int, LipGenerator], None]
) -> tuple[LipGenerator, list[float], list[float]]:
    """Train a generator on the training part.

    Args:
        clip: the clip.
        steps: number of optimiser steps.
        seed: of the initial weights and of the data.
        sync_loss: added to the reconstruction loss; None for reconstruction only.
        on_step: called after each step with its number, from 1, and the generator.

    Returns:
        The generator, and the L1 and the sync loss of each step (empty without one).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = LipGenerator()
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(generator.parameters(), LEARNING_RATE)
    reconstruction, sync = [], []
    for step in range(1, steps + 1):
        share = warm_up_cosine(step - 1, steps, warm_up=steps / 10, lowest=0.05)
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * share
        losses = batch_losses(generator, clip, draw_batch(clip.train, rng), sync_loss)
        reconstruction.append(losses[0].item())
        sync += [loss.item() for loss in losses[1:]]
        total = losses[0] + sum(SYNC_WEIGHT * _sync_share(step / steps) * loss for loss in losses[1:])
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimiser.step()
        on_step(step, generator)
    return generator, reconstruction, sync


def batch_losses(
    generator: LipGenerator, clip: DemoClip, batch: WindowBatch, sync_loss: UniSyncLoss | None
) -> tuple[Tensor, ...]:
    """L1 of the lower half, followed by the sync loss if there is one."""
    frames = rearrange(batch.frames, "b t -> (b t)")
    late, gain = (x.repeat_interleave(WINDOW_FRAMES) for x in (batch.delay, batch.gain))
    audio = (mel_around(clip.mel, frames - late) + gain[:, None, None, None]).clamp(-4, 4)
    generated = generator(audio, faces_of(clip, frames))
    reconstruction = F.l1_loss(lower_half(generated), lower_half(clip.frames[frames]))
    if sync_loss is None:
        return (reconstruction,)
    video = rearrange(generated, "(b t) c h w -> b t c h w", t=WINDOW_FRAMES)
    return reconstruction, sync_loss(video, audio_windows(clip, batch.frames[:, 0]))


def _sync_share(progress: float) -> float:
    # faded in from 10 % to 35 % of the training: the expert's gradient is of use only once there are lips
    return min(1.0, max(0.0, (progress - 0.1) / 0.25))


def motion_correlation(generated: Tensor, truth: Tensor, span: int = 9) -> float:
    """Correlation over time of the mouth's brightness without slow changes, a measure that needs no expert.

    Args:
        generated: (T, 3, 96, 96).
        truth: the same shape.
        span: frames of the moving average that is subtracted, to remove changes of pose and light.

    Returns:
        In [-1, 1].
    """
    moves = []
    for video in (generated, truth):
        grey = reduce(video[:, :, MOUTH_ROWS, MOUTH_COLUMNS], "t c h w -> 1 (h w) t", "mean")
        moves.append(grey - F.avg_pool1d(grey, span, 1, span // 2, count_include_pad=False))
    product = (moves[0] * moves[1]).sum()
    return float(product / (moves[0].norm() * moves[1].norm()).clamp(min=1e-12))
