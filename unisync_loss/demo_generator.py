"""The demonstration's clip, its generator (Wav2Lip's tensors, a fiftieth of the parameters) and how that is trained.

Axes: B batch, T frames, N frames of a batch (B windows of 5), L mel steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce, repeat
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unisync_loss.aligner import resize
from unisync_loss.config import FPS, SAMPLES_PER_FRAME, STEP_RATE, WINDOW_FRAMES, WINDOW_STEPS
from unisync_loss.loss import UniSyncLoss
from unisync_loss.media import read_clip
from unisync_loss.representations import mel_spectrogram

SIZE = 96  # pixels, Wav2Lip's
MIN_SECONDS, MAX_SECONDS = 3.5, 20.0
TRAIN_SHARE = 0.7
GAP = WINDOW_FRAMES  # frames between training and held-out part: no mel window reaches across
REFERENCE_FRAMES = 6  # of which the reference is the mean
REFERENCE_GAP = 8  # frames between a target and what makes its reference
MOUTH_ROWS, MOUTH_COLUMNS = slice(54, 92), slice(28, 68)  # where the mouth lies, in tight and loose crops
BATCH = 8  # windows
LEARNING_RATE = 2e-3
SYNC_WEIGHT = 0.03  # Wav2Lip's; reconstruction is an L1 of about 0.03, the sync loss about 1


class Material(NamedTuple):
    """A clip ready for the generator.

    Attributes:
        frames: (T, 3, 96, 96) RGB in [0, 1].
        references: (T, 3, 96, 96) how the person looks in that pose, see :func:`references_of`.
        mel: (80, L) of the whole clip.
        waveform: (640 · T,) at 16 kHz.
        train: frames to train on.
        held: later frames, never trained on.
    """

    frames: Tensor
    references: Tensor
    mel: Tensor
    waveform: NDArray[np.float32]
    train: range
    held: range


def load_material(video: Path) -> Material:
    """Read a clip and split it in time.

    Args:
        video: a clip of one face of at least 3.5 s; the first 20 s are used.

    Returns:
        The clip at 96 x 96 pixels, its mel spectrogram and its split.

    Raises:
        ValueError: when it is too short, silent or still in either part, no face crop, or cannot be decoded.
        FileNotFoundError: when there is no such file.
    """
    clip = read_clip(video, max_frames=round(MAX_SECONDS * FPS))
    total, height, width = clip.frames.shape[:3]
    if not 0.66 < width / height < 1.5:
        raise ValueError(f"{video}: expected a crop around one face, about square, got {width} x {height} pixels")
    if total < MIN_SECONDS * FPS:
        raise ValueError(f"{video}: expected at least {MIN_SECONDS} s of video, got {total / FPS:.1f} s")
    pieces = [torch.from_numpy(clip.frames[start : start + 50]) for start in range(0, total, 50)]
    small = [resize(rearrange(piece, "t h w c -> t c h w").float() / 255, SIZE, SIZE).clamp(0, 1) for piece in pieces]
    mel = mel_spectrogram(torch.from_numpy(clip.waveform)[None])[0]
    train, held = split_time(total)
    frames = torch.cat(small)
    material = Material(frames, references_of(frames, train), mel, clip.waveform, train, held)
    for name, part in (("first", train), ("last", held)):
        sound = clip.waveform[part.start * SAMPLES_PER_FRAME : part.stop * SAMPLES_PER_FRAME]
        if float(np.sqrt(np.mean(sound**2))) < 1e-3:  # -60 dB
            raise ValueError(f"{video}: expected speech throughout, got silence in the {name} {len(part) / FPS:.1f} s")
        if (
            F.avg_pool2d(frames[part.start : part.stop].std(dim=0), 4).max() < 2e-2
        ):  # what compression alone stays below
            raise ValueError(f"{video}: expected a moving face, got a still one in the {name} {len(part) / FPS:.1f} s")
    return material


def split_time(frames: int) -> tuple[range, range]:
    """Split a clip into a first part to train on and a later one to measure on, with a gap between.

    Returns:
        Frames of either part.
    """
    boundary = round(frames * TRAIN_SHARE)
    return range(boundary), range(boundary + GAP, frames)


def references_of(frames: Tensor, train: range) -> Tensor:
    """Find how the person looks in the pose of each frame, whatever is said.

    Wav2Lip's reference is one frame of another time, and moving it into place takes long training. The upper half
    tells the pose, so here it is the mean of the training frames whose upper halves are most alike, of other times
    too; the mean of several mouths gives away nothing of what is said.

    Args:
        frames: (T, 3, 96, 96).
        train: frames that may be used.

    Returns:
        (T, 3, 96, 96).
    """
    looks = rearrange(F.avg_pool2d(frames[:, :, : SIZE // 2], 4), "t c h w -> t (c h w)")
    distance = torch.cdist(looks, looks[train.start : train.stop])
    apart = (torch.arange(len(frames))[:, None] - torch.tensor(train)).abs()
    nearest = distance.masked_fill(apart < REFERENCE_GAP, torch.inf).topk(REFERENCE_FRAMES, largest=False).indices
    return reduce(frames[nearest + train.start], "t k c h w -> t c h w", "mean")


def mel_around(mel: Tensor, frames: Tensor) -> Tensor:
    """Cut the 0.2 s of mel in whose middle a frame lies.

    Args:
        mel: (80, L).
        frames: (N,) frame numbers.

    Returns:
        (N, 1, 80, 16); moved inwards at the ends of the clip.
    """
    steps = WINDOW_STEPS["mel"]
    middles = (frames + 0.5) * (STEP_RATE["mel"] / FPS)
    starts = (middles - steps / 2).round().long().clamp(0, mel.shape[1] - steps)
    return rearrange(mel[:, starts[:, None] + torch.arange(steps)], "f n l -> n 1 f l")


class LipGenerator(nn.Module):
    """A small generator with Wav2Lip's inputs and outputs: a U-Net that draws the lower half from sound.

    Shape:
        mel (N, 1, 80, 16) and faces (N, 6, 96, 96), a target without its lower half and a reference, → RGB
        (N, 3, 96, 96) in [0, 1], whose upper half is the target's.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (16, 32, 64, 128)) -> None:
        """Build the networks; the first answer is the reference's lower half."""
        super().__init__()
        first, second, third, last = widths
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
        reference = faces[:, 3:, SIZE // 2 :].clamp(0.01, 0.99).logit()
        lower = torch.sigmoid(reference + F.pixel_shuffle(self.out(x), 2))
        return torch.cat([faces[:, :3, : SIZE // 2], lower], dim=2)


def _block(before: int, after: int, stride: int | tuple[int, int] = 1) -> nn.Sequential:
    # group norm: no running statistics, so a held-out frame is drawn just as a training frame is
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU())


def faces_of(material: Material, frames: Tensor) -> Tensor:
    """Stack targets without their lower half and references, as the generator takes them.

    Args:
        material: the clip.
        frames: (N,) target frames.

    Returns:
        (N, 6, 96, 96).
    """
    targets = material.frames[frames].clone()
    targets[:, :, SIZE // 2 :] = 0
    return torch.cat([targets, material.references[frames]], dim=1)


@torch.no_grad()
def generate(generator: LipGenerator, material: Material, *, late: int = 0) -> Tensor:
    """Draw the held-out frames.

    Args:
        generator: trained on the training part.
        material: the clip.
        late: frames by which the sound that drives the lips is late.

    Returns:
        (T, 3, 96, 96).
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
    generator: LipGenerator, material: Material, batch: Batch, sync_loss: UniSyncLoss | None
) -> tuple[Tensor, ...]:
    """Reconstruction loss of the lower half and, where there is one, the sync loss."""
    frames = rearrange(batch.frames, "b t -> (b t)")
    late, gain = (x.repeat_interleave(WINDOW_FRAMES) for x in (batch.delay, batch.gain))
    sound = (mel_around(material.mel, frames - late) + gain[:, None, None, None]).clamp(-4, 4)
    drawn = generator(sound, faces_of(material, frames))
    half = SIZE // 2
    reconstruction = F.l1_loss(drawn[:, :, half:], material.frames[frames][:, :, half:])
    if sync_loss is None:
        return (reconstruction,)
    # the mel of the whole clip, cut: the same steps as an expert hears when it slides over a recording
    heard = (batch.frames[:, :1] * 16 // 5) + torch.arange(WINDOW_STEPS["mel"])
    sync: Tensor = sync_loss(
        rearrange(drawn, "(b t) c h w -> b t c h w", t=WINDOW_FRAMES),
        rearrange(material.mel[:, heard], "f b l -> b f l"),
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
