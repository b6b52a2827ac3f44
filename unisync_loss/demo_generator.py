"""The demonstration's generators and how they are trained.

Pictures come from a network with Wav2Lip's tensors and a fiftieth of its parameters; landmarks and coefficients from a
still smaller one. Axes: B batch, T frames, N frames of a batch (B windows of 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.config import WINDOW_FRAMES
from unisync_loss.demo_material import SIZE, Material, heard_in, is_map, mel_around
from unisync_loss.loss import UniSyncLoss

MOUTH_ROWS, MOUTH_COLUMNS = slice(54, 92), slice(28, 68)  # where the mouth lies, in tight and loose crops
BATCH = 8  # windows
LEARNING_RATE = 2e-3
SYNC_WEIGHT = 0.03  # Wav2Lip's; reconstruction is an L1 of about 0.03, the sync loss about 1
REST_ERROR = 0.03  # what the L1 of numbers is scaled to for a face at rest, so that the weight means the same


class LipGenerator(nn.Module):
    """A small generator with Wav2Lip's inputs and outputs: a U-Net that draws the lower half from sound.

    Shape:
        mel (N, 1, 80, 16) and faces (N, 2 C, 96, 96), a target without its lower half and a reference, → (N, C, 96, 96)
        in [0, 1], whose upper half is the target's: RGB for C = 3, else probabilities.
    """

    def __init__(self, channels: int = 3) -> None:
        """Build the networks; the first answer is the reference's lower half."""
        super().__init__()
        first, second, third, last = 16, 32, 64, 128
        self.channels = channels
        self.encoder = nn.ModuleList(
            [_block(8 * channels, first), _block(first, second, 2), _block(second, third, 2), _block(third, last, 2)]
        )
        self.audio = _ear(last)
        self.fuse = _block(2 * last, last)
        self.decoder = nn.ModuleList(
            [_block(last + third, third), _block(third + second, second), _block(second + first, first)]
        )
        self.modulation = nn.ModuleList([nn.Linear(last, 2 * width) for width in (third, second, first)])
        self.out = nn.Conv2d(first, 4 * channels, 3, padding=1)
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
        reference = faces[:, self.channels :, SIZE // 2 :].clamp(0.01, 0.99).logit()
        lower = torch.sigmoid(reference + F.pixel_shuffle(self.out(x), 2))
        if self.channels != 3:
            lower = lower / lower.sum(dim=1, keepdim=True)
        return torch.cat([faces[:, : self.channels, : SIZE // 2], lower], dim=2)


class MotionGenerator(nn.Module):
    """Moves a face at rest by sound.

    Args:
        shape: of a frame, (P, 2 or 3) landmarks or (E,) coefficients.
        scale: how far they move, in their own unit.

    Shape:
        mel (N, 1, 80, 16) and face at rest (N, *shape) → (N, *shape).
    """

    def __init__(self, shape: tuple[int, ...], scale: float) -> None:
        """Build the network; the first answer is the face at rest."""
        super().__init__()
        self.scale, self.shape = scale, shape
        self.audio = nn.Sequential(_ear(256), nn.Linear(256, 256), nn.ReLU())
        self.out = nn.Linear(256, math.prod(shape))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, mel: Tensor, rest: Tensor) -> Tensor:
        """Move; see the class for shapes."""
        return rest + self.scale * self.out(self.audio(mel)).unflatten(1, self.shape)


Generator = LipGenerator | MotionGenerator


def new_generator(material: Material) -> Generator:
    """Build the generator of a clip's representation, from random weights."""
    if is_map(material.visual):
        return LipGenerator(material.frames.shape[1])
    return MotionGenerator(tuple(material.frames.shape[1:]), rest_error(material))


def rest_error(material: Material) -> float:
    """L1 on the training part between the frames and what the generator starts from."""
    train = slice(material.train.stop)
    return float(
        F.l1_loss(made_part(material, material.frames[train]), made_part(material, material.references[train]))
    )


def made_part(material: Material, frames: Tensor) -> Tensor:
    """What of the frames is the generator's own: the lower half of pictures, all of the numbers."""
    return frames[:, :, SIZE // 2 :] if is_map(material.visual) else frames


def _ear(features: int) -> nn.Sequential:
    """Mel (N, 1, 80, 16) → (N, features)."""
    return nn.Sequential(
        _block(1, 16, (2, 1)), _block(16, 32, 2), _block(32, 64, 2), _block(64, 64, 2),
        nn.Flatten(), nn.Linear(64 * 5 * 2, features), nn.ReLU(),
    )  # fmt: skip


def _block(before: int, after: int, stride: int | tuple[int, int] = 1) -> nn.Sequential:
    # group norm: no running statistics, so a held-out frame is drawn just as a training frame is
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU())


def faces_of(material: Material, frames: Tensor) -> Tensor:
    """Stack targets without their lower half and references, as the generator takes them.

    Args:
        material: the clip.
        frames: (N,) target frames.

    Returns:
        (N, 2 C, 96, 96); of landmarks and coefficients the face at rest.
    """
    if not is_map(material.visual):
        return material.references[frames]
    targets = material.frames[frames].clone()
    targets[:, :, SIZE // 2 :] = 0
    return torch.cat([targets, material.references[frames]], dim=1)


@torch.no_grad()
def generate(generator: Generator, material: Material, *, late: int = 0) -> Tensor:
    """Draw the held-out frames.

    Args:
        generator: trained on the training part.
        material: the clip.
        late: frames by which the sound that drives the lips is late.

    Returns:
        (T, …) as ``material.frames``.
    """
    frames = torch.arange(material.held.start, material.held.stop).split(50)
    return torch.cat([generator(mel_around(material.mel, part - late), faces_of(material, part)) for part in frames])


class Batch(NamedTuple):
    """Five consecutive frames of each of B windows, (B, 5), and how their sound is changed, (B,) each."""

    frames: Tensor
    gain: Tensor
    delay: Tensor


def draw_batch(train: range, random: torch.Generator) -> Batch:
    """Draw windows from the training part.

    Sound is made louder or softer by up to 4 dB and moved by up to half a frame: so few seconds of one voice would
    be learnt by heart otherwise.
    """
    starts = torch.randint(len(train) - WINDOW_FRAMES + 1, (BATCH,), generator=random) + train.start
    gain, delay = torch.rand(2, BATCH, generator=random) - 0.5
    return Batch(starts[:, None] + torch.arange(WINDOW_FRAMES), 0.64 * gain, delay)


def train_generator(
    material: Material, steps: int, seed: int, sync_loss: UniSyncLoss | None, each: Callable[[int, Generator], None]
) -> tuple[Generator, list[float], list[float]]:
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
        generator = new_generator(material)
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(generator.parameters(), LEARNING_RATE)
    reconstruction, sync = [], []
    for step in range(1, steps + 1):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * _learning_share(step / steps)
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
    generator: Generator, material: Material, batch: Batch, sync_loss: UniSyncLoss | None
) -> tuple[Tensor, ...]:
    """Reconstruction loss of what is made and, where there is one, the sync loss."""
    frames = rearrange(batch.frames, "b t -> (b t)")
    late, gain = (x.repeat_interleave(WINDOW_FRAMES) for x in (batch.delay, batch.gain))
    sound = (mel_around(material.mel, frames - late) + gain[:, None, None, None]).clamp(-4, 4)
    drawn = generator(sound, faces_of(material, frames))
    reconstruction = F.l1_loss(made_part(material, drawn), made_part(material, material.frames[frames]))
    if isinstance(generator, MotionGenerator):
        reconstruction = reconstruction * (REST_ERROR / generator.scale)
    if sync_loss is None:
        return (reconstruction,)
    sync: Tensor = sync_loss(
        rearrange(drawn, "(b t) ... -> b t ...", t=WINDOW_FRAMES), heard_in(material, batch.frames[:, 0])
    )
    return reconstruction, sync


def _learning_share(progress: float) -> float:
    return min(1.0, 10 * progress) * (0.525 + 0.475 * math.cos(math.pi * progress))


def _sync_share(progress: float) -> float:
    # lips must look like lips before the expert has an opinion about them: from 10 % to 35 % of the training
    return min(1.0, max(0.0, (progress - 0.1) / 0.25))


def motion_correlation(drawn: Tensor, truth: Tensor, span: int = 9) -> float:
    """How alike the mouths move: correlation of brightness over time, without what changes slowly.

    Args:
        drawn: (T, 3, 96, 96).
        truth: the same.
        span: frames of the moving average that is taken out, the pose and light of the head.

    Returns:
        In [-1, 1]; owes nothing to the expert.
    """
    moves = []
    for video in (drawn, truth):
        grey = reduce(video[:, :, MOUTH_ROWS, MOUTH_COLUMNS], "t c h w -> 1 (h w) t", "mean")
        moves.append(grey - F.avg_pool1d(grey, span, 1, span // 2, count_include_pad=False))
    product = (moves[0] * moves[1]).sum()
    return float(product / (moves[0].norm() * moves[1].norm()).clamp(min=1e-12))
