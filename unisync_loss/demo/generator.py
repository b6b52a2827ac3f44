"""Generator of the demonstration and its training: Wav2Lip's inputs and outputs, a fiftieth of its parameters.

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
from unisync_loss.demo.clip import SIZE, Material, audio_windows, mel_around
from unisync_loss.loss import UniSyncLoss
from unisync_loss.utils.schedule import warm_up_cosine

MOUTH_ROWS, MOUTH_COLUMNS = slice(54, 92), slice(28, 68)  # where the mouth lies, in tight and loose crops
BATCH = 8  # windows
LEARNING_RATE = 2e-3
SYNC_WEIGHT = 0.03  # Wav2Lip's; reconstruction is an L1 of about 0.03, the sync loss about 1


class LipGenerator(nn.Module):
    """A U-Net that draws the lower half of a face from sound; at first it returns the reference's lower half.

    Shape:
        mel (N, 1, 80, 16) and faces (N, 6, 96, 96), a target without its lower half and a reference, → RGB
        (N, 3, 96, 96) in [0, 1], whose upper half is the target's.
    """

    def __init__(self) -> None:
        """Build the network."""
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
        """Draw the frames; see the class for shapes."""
        skips = [F.pixel_unshuffle(faces, 2)]
        for layer in self.encoder:
            skips.append(layer(skips[-1]))
        sound = self.audio(mel)
        x = self.fuse(torch.cat([skips.pop(), repeat(sound, "n c -> n c h w", h=6, w=6)], dim=1))
        x = x[:, :, 3:]  # only the lower half is drawn
        for layer, modulation in zip(self.decoder, self.modulation, strict=True):
            skip = skips.pop()
            x = layer(torch.cat([F.interpolate(x, scale_factor=2.0), skip[:, :, skip.shape[2] // 2 :]], dim=1))
            scale, shift = rearrange(modulation(sound), "n (k c) -> k n c 1 1", k=2)
            x = x * (1 + scale) + shift
        reference = lower_half(faces[:, 3:]).clamp(0.01, 0.99).logit()
        lower = torch.sigmoid(reference + F.pixel_shuffle(self.out(x), 2))
        return torch.cat([faces[:, :3, : SIZE // 2], lower], dim=2)


def _block(before: int, after: int, stride: int | tuple[int, int] = 1) -> nn.Sequential:
    # group norm has no running statistics, so held-out frames are drawn just as training frames are
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU())


def lower_half(frames: Tensor) -> Tensor:
    """Lower half of pictures (N, C, 96, 96), the part that the generator draws."""
    return frames[:, :, SIZE // 2 :]


def faces_of(material: Material, frames: Tensor) -> Tensor:
    """Stack targets (N, 3, 96, 96) without their lower half and references to (N, 6, 96, 96); ``frames`` is (N,)."""
    targets = material.frames[frames]  # a copy
    lower_half(targets).zero_()
    return torch.cat([targets, material.references[frames]], dim=1)


@torch.no_grad()
def generate(generator: LipGenerator, material: Material, *, late: int = 0) -> Tensor:
    """Draw the held-out frames, (T, 3, 96, 96), from audio that is ``late`` frames late."""
    frames = torch.arange(material.held.start, material.held.stop).split(50)
    return torch.cat([generator(mel_around(material.mel, part - late), faces_of(material, part)) for part in frames])


class Batch(NamedTuple):
    """Five consecutive frames of each of B windows, (B, 5), and the change of gain and delay of their audio, (B,)."""

    frames: Tensor
    gain: Tensor
    delay: Tensor


def draw_batch(train: range, random: torch.Generator) -> Batch:
    """Draw windows from the training part.

    The audio changes by up to 4 dB and half a frame; otherwise the generator would overfit so few seconds of one
    speaker.
    """
    starts = torch.randint(len(train) - WINDOW_FRAMES + 1, (BATCH,), generator=random) + train.start
    gain, delay = torch.rand(2, BATCH, generator=random) - 0.5
    return Batch(starts[:, None] + torch.arange(WINDOW_FRAMES), 0.64 * gain, delay)


def train_generator(
    material: Material, steps: int, seed: int, sync_loss: UniSyncLoss | None, each: Callable[[int, LipGenerator], None]
) -> tuple[LipGenerator, list[float], list[float]]:
    """Train a generator on the training part.

    Args:
        material: the clip.
        steps: of the optimiser.
        seed: of the first weights and of the data.
        sync_loss: added to the reconstruction loss; None trains with reconstruction only.
        each: called after each step with its number, from 1, and the generator.

    Returns:
        The generator, and of each step the L1 and the sync loss (empty without one).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = LipGenerator()
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(generator.parameters(), LEARNING_RATE)
    reconstruction, sync = [], []
    for step in range(1, steps + 1):
        share = warm_up_cosine(step - 1, steps, warm_up=steps / 10, lowest=0.05)
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * share
        losses = batch_losses(generator, material, draw_batch(material.train, random), sync_loss)
        reconstruction.append(losses[0].item())
        sync += [loss.item() for loss in losses[1:]]
        total = losses[0] + sum(SYNC_WEIGHT * _sync_share(step / steps) * loss for loss in losses[1:])
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimiser.step()
        each(step, generator)
    return generator, reconstruction, sync


def batch_losses(
    generator: LipGenerator, material: Material, batch: Batch, sync_loss: UniSyncLoss | None
) -> tuple[Tensor, ...]:
    """Reconstruction loss of the lower half and, where there is one, the sync loss."""
    frames = rearrange(batch.frames, "b t -> (b t)")
    late, gain = (x.repeat_interleave(WINDOW_FRAMES) for x in (batch.delay, batch.gain))
    sound = (mel_around(material.mel, frames - late) + gain[:, None, None, None]).clamp(-4, 4)
    drawn = generator(sound, faces_of(material, frames))
    reconstruction = F.l1_loss(lower_half(drawn), lower_half(material.frames[frames]))
    if sync_loss is None:
        return (reconstruction,)
    video = rearrange(drawn, "(b t) c h w -> b t c h w", t=WINDOW_FRAMES)
    return reconstruction, sync_loss(video, audio_windows(material, batch.frames[:, 0]))


def _sync_share(progress: float) -> float:
    # from 10 % to 35 % of the training: the expert's gradient is of use only once lips look like lips
    return min(1.0, max(0.0, (progress - 0.1) / 0.25))


def motion_correlation(drawn: Tensor, truth: Tensor, span: int = 9) -> float:
    """Correlation over time of the mouth's brightness, without slow changes; does not depend on the expert.

    Args:
        drawn: (T, 3, 96, 96).
        truth: the same shape.
        span: frames of the moving average that is subtracted: pose and light of the head.

    Returns:
        In [-1, 1].
    """
    moves = []
    for video in (drawn, truth):
        grey = reduce(video[:, :, MOUTH_ROWS, MOUTH_COLUMNS], "t c h w -> 1 (h w) t", "mean")
        moves.append(grey - F.avg_pool1d(grey, span, 1, span // 2, count_include_pad=False))
    product = (moves[0] * moves[1]).sum()
    return float(product / (moves[0].norm() * moves[1].norm()).clamp(min=1e-12))
