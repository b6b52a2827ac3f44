"""Generator of the demonstration and its training: inputs and outputs of Wav2Lip, a fiftieth of its parameters.

Axes: B windows of 5 frames, T frames, N = 5 B frames of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.demo.clip import SIZE, DemoClip, audio_windows, mel_around
from unisync_loss.loss import UniSyncLoss
from unisync_loss.utils.schedule import linear_warm_up, warm_up_cosine

BATCH = 4  # windows
LEARNING_RATE = 2e-3
SYNC_WARM_UP = 0.25  # share of the steps over which the weight of the sync loss grows from 0


class LipGenerator(nn.Module):
    """U-Net that generates the lower half of a face from audio; untrained, it returns that of the reference.

    Shape:
        mel (N, 1, 80, 16) and faces (N, 6, 96, 96), a target without its lower half and a reference, → RGB
        (N, 3, 96, 96) in [0, 1] with the upper half of the target.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([_block(24, 16), _block(16, 32, 2), _block(32, 64, 2), _block(64, 128, 2)])
        self.audio = nn.Sequential(
            _block(1, 16, (2, 1)), _block(16, 32, 2), _block(32, 64, 2), _block(64, 64, 2),
            nn.Flatten(), nn.Linear(64 * 5 * 2, 128), nn.ReLU(),
        )  # fmt: skip
        self.fuse = _block(128 + 128, 128)
        self.decoder = nn.ModuleList([_block(128 + 64, 64), _block(64 + 32, 32), _block(32 + 16, 16)])
        self.modulation = nn.ModuleList([nn.Linear(128, 2 * width) for width in (64, 32, 16)])
        self.out = nn.Conv2d(16, 12, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

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


def new_generator(seed: int) -> LipGenerator:
    """Make a generator with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LipGenerator()


def train_generator(
    generator: LipGenerator,
    clip: DemoClip,
    steps: int,
    *,
    seed: int,
    sync_loss: UniSyncLoss | None = None,
    sync_weight: float = 0.0,
) -> Iterator[list[float]]:
    """Train a generator on the training part, in place; ``seed`` sets the data, ``sync_loss`` is added to the L1.

    Yields:
        After each step, its losses: L1, followed by the sync loss if there is one.
    """
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(generator.parameters(), LEARNING_RATE)
    for step in range(steps):
        share = warm_up_cosine(step, steps, warm_up=steps / 10, lowest=0.05)
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * share
        losses = batch_losses(generator, clip, *draw_batch(clip.train, rng), sync_loss)
        weight = sync_weight * linear_warm_up(step, SYNC_WARM_UP * steps)
        total = losses[0] + sum(weight * loss for loss in losses[1:])
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimiser.step()
        yield [loss.item() for loss in losses]


def draw_batch(train: range, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw windows at random, with gains of up to 4 dB and delays of up to half a frame against overfitting.

    Returns:
        Consecutive frame numbers (B, 5), what is added to the mel (B,), and the delay of the audio in frames (B,).
    """
    starts = torch.randint(len(train) - WINDOW_FRAMES + 1, (BATCH,), generator=rng) + train.start
    gain, delay = torch.rand(2, BATCH, generator=rng) - 0.5
    return starts[:, None] + torch.arange(WINDOW_FRAMES), 0.64 * gain, delay


def batch_losses(
    generator: LipGenerator, clip: DemoClip, windows: Tensor, gain: Tensor, delay: Tensor, sync_loss: UniSyncLoss | None
) -> tuple[Tensor, ...]:
    """L1 of the lower half, followed by the sync loss if there is one."""
    frames = rearrange(windows, "b t -> (b t)")
    late, gain = (x.repeat_interleave(WINDOW_FRAMES) for x in (delay, gain))
    audio = (mel_around(clip.mel, frames - late) + gain[:, None, None, None]).clamp(-4, 4)
    generated = generator(audio, faces_of(clip, frames))
    reconstruction = F.l1_loss(lower_half(generated), lower_half(clip.frames[frames]))
    if sync_loss is None:
        return (reconstruction,)
    video = rearrange(generated, "(b t) c h w -> b t c h w", t=WINDOW_FRAMES)
    return reconstruction, sync_loss(video, audio_windows(clip, windows[:, 0]))
